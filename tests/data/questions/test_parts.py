import pytest

from memlm.data.config import DocumentStreamConfig, StreamConfig
from memlm.data.questions.facts import Fact, FactError
from memlm.data.questions.parts import items_of_part, size_of_part
from memlm.data.questions.streams import facts_of_stream, num_steps, shortfall

FACTS = [Fact(id=f"f{number}", statements=("a",), questions=()) for number in range(10)]
CHUNKS = [
    Fact(id=f"{document}#{number}", statements=("a",), questions=()) for document in "abcdefgh" for number in "01"
]


def learned(stream, facts, *seeds: int) -> set[str]:
    return {fact.id for seed in seeds for fact in facts_of_stream(stream, facts, seed=seed)}


def test_every_fourth_fact_is_for_tuning_and_the_others_for_evaluation():
    assert items_of_part("abcdefghij", "tuning") == ["d", "h"]
    assert items_of_part("abcdefghij", "evaluation") == list("abcefgij")
    assert items_of_part("abcdefghij", "all") == "abcdefghij"


@pytest.mark.parametrize("number", range(13))
def test_the_size_of_a_part_is_the_number_of_its_items(number):
    sizes = {part: size_of_part(number, part) for part in ("all", "tuning", "evaluation")}
    for part in sizes:
        try:
            found = len(items_of_part(range(number), part))
        except ValueError:
            found = 0
        assert sizes[part] == found
    assert sizes["tuning"] + sizes["evaluation"] == sizes["all"] == number


def test_no_seed_of_one_part_learns_a_fact_of_the_other():
    tuning, evaluation = (
        learned(StreamConfig(num_facts=2, part=part), FACTS, *range(20)) for part in ("tuning", "evaluation")
    )
    assert tuning == {"f3", "f7"} and evaluation == {fact.id for fact in FACTS} - tuning


def test_documents_are_parted_whole():
    tuning, evaluation = (learned(DocumentStreamConfig(part=part), CHUNKS, 0) for part in ("tuning", "evaluation"))
    assert tuning == {"d#0", "d#1", "h#0", "h#1"} and len(evaluation) == 12 and not tuning & evaluation


def test_all_facts_are_drawn_as_before_there_were_parts():
    drawn = [fact.id for fact in facts_of_stream(StreamConfig(num_facts=4), FACTS, seed=5)]
    assert drawn == ["f4", "f6", "f9", "f8"]


def test_a_part_with_fewer_facts_than_asked_for_is_learned_whole_and_reported():
    stream = StreamConfig(num_facts=9, part="evaluation", num_passes=3)
    assert (
        shortfall(stream, FACTS)
        == "stream.num_facts is 9, but there are only 8 for evaluation: all of them are learned"
    )
    assert num_steps(stream, FACTS, seed=0) == 24
    assert shortfall(DocumentStreamConfig(num_documents=3, part="tuning"), CHUNKS).startswith(
        "stream.num_documents is 3, but there are only 2 for tuning"
    )


@pytest.mark.parametrize(
    ("stream", "facts"), [(StreamConfig(part="tuning"), FACTS[:3]), (DocumentStreamConfig(part="tuning"), CHUNKS[:6])]
)
def test_too_few_facts_for_a_part_are_refused(stream, facts):
    with pytest.raises(
        FactError,
        match="stream.part is 'tuning', and none of the 3 facts or documents to learn is in it: .*give at least 4",
    ):
        facts_of_stream(stream, facts, seed=0)
