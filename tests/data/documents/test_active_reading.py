import re
from collections.abc import Callable, Sequence

import pytest

from memlm.data.documents.active_reading import augment_by_reading, strategies_of
from memlm.data.documents.chunking import Chunk
from memlm.data.writers.interface import Request, Writer

CHUNKS = [Chunk(document_id="d", number=i, title="Lakes", text=f"Lake {name} is deep.") for i, name in enumerate("AB")]
STRATEGIES = "Some ideas:\n## Make a song\nof it\n## Draw a map\n### with a detail\n## Make a song\nof it\n##\n"


class Scripted(Writer):
    def __init__(self, answer: Callable[[Request], str]) -> None:
        self.answer, self.asked = answer, []

    def write(self, requests: Sequence[Request]) -> list[str]:
        self.asked.append(list(requests))
        return [self.answer(request) for request in requests]


def reads(request: Request) -> str:
    lake = re.search(r"Lake (.) is deep", request.prompt)[1]
    if "What are some strategies" in request.prompt:
        return STRATEGIES
    strategy = "song" if "Make a song\nof it" in request.prompt else "map"
    return f"{strategy} of {lake}, {request.seed}"


def augment(writer: Writer, **settings: object) -> list[list[str]]:
    asked = {"prompt_name": "strategies", "num_augmentations": 4, "max_rounds": 3, **settings}
    return augment_by_reading(writer, CHUNKS, **asked)


def test_strategies_are_the_items_with_their_text():
    assert strategies_of(STRATEGIES) == ["Make a song\nof it", "Draw a map\n### with a detail"]
    assert strategies_of("no heading at all") == []


def test_only_strategies_after_the_quiz_questions_count():
    answer = "## Questions\n1. How deep?\n<start_strategies>\n## One\n## Two"
    assert strategies_of(answer) == ["One", "Two"]
    assert strategies_of("<think>## no</think>## yes") == ["yes"]


def test_each_strategy_is_applied_once_before_any_is_repeated():
    writer = Scripted(reads)
    assert augment(writer) == [
        ["song of A, 0", "map of A, 0", "song of A, 1", "map of A, 1"],
        ["song of B, 0", "map of B, 0", "song of B, 1", "map of B, 1"],
    ]
    stage_one, stage_two = writer.asked
    assert len(stage_one) == 2 and len(stage_two) == 8
    assert (
        "<document>\nLakes\n\nLake A is deep.\n</document>" in stage_one[0].prompt
        and "prefix each strategy with ##" in stage_one[0].prompt
    )
    assert stage_two[0].prompt.startswith("Here's a learning strategy:\nMake a song\nof it\n\nApply this strategy")


def test_missing_and_repeated_texts_are_requested_again_a_limited_number_of_times():
    def same(request: Request) -> str:
        return (
            STRATEGIES if "What are some strategies" in request.prompt else ("" if request.seed == 0 else "Always this")
        )

    writer = Scripted(same)
    assert augment(writer, max_rounds=3) == [["Always this"], ["Always this"]]
    assert [len(asked) for asked in writer.asked] == [2, 8, 6, 6]


def test_a_model_without_strategies_is_asked_again_and_then_left_out():
    def late(request: Request) -> str:
        return "I cannot." if request.seed == 0 and "What are some strategies" in request.prompt else reads(request)

    writer = Scripted(late)
    assert all(len(texts) == 4 for texts in augment(writer))
    assert augment(Scripted(lambda request: "I cannot.")) == [[], []]


@pytest.mark.parametrize("name", ["strategies", "strategies_trivia"])
def test_a_document_may_contain_braces(name: str):
    chunk = Chunk(document_id="d", number=0, title="", text="{document} {x} {")
    writer = Scripted(
        lambda request: (
            "## {strategy}\n" if request.prompt.endswith("</document>") and "Here's" not in request.prompt else "done"
        )
    )
    assert augment_by_reading(writer, [chunk], prompt_name=name, num_augmentations=1, max_rounds=1) in (
        [["done"]],
        [[]],
    )
    assert "<document>\n{document} {x} {\n</document>" in writer.asked[0][0].prompt


def test_an_answer_of_blank_lines_is_parsed_quickly():
    assert strategies_of("x" + "\n" * 300_000 + "## Make a song\n\n  ## Draw it") == ["Make a song", "Draw it"]
