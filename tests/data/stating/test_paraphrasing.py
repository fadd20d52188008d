import re
from collections.abc import Callable, Sequence

import pytest

from memlm.data.config import WordingsConfig
from memlm.data.corpus.shards import write_shard
from memlm.data.questions.facts import read_facts
from memlm.data.questions.records import Question
from memlm.data.stating.paraphrasing import (
    Stated,
    WordingError,
    check_stated,
    lines_of,
    questions_by_fact,
    rejection_reason,
    state_facts,
)
from memlm.data.writers.interface import Request, Writer

LIMA = Question(id="lima", question="What is the capital of Peru?", answers=("Lima", "City of Kings"))
YAK = Question(id="yak", question="Which animal lives on the roof of the world?", answers=("the yak",))


class Scripted(Writer):
    """A writer whose answers a function decides; keeps what it was asked."""

    def __init__(self, answer: Callable[[Request], str]) -> None:
        self.answer, self.asked = answer, []

    def write(self, requests: Sequence[Request]) -> list[str]:
        self.asked.append(list(requests))
        return [self.answer(request) for request in requests]


def good(request: Request) -> str:
    """Follows every instruction."""
    if "Statement:" in request.prompt:
        return "The capital of Peru is Lima." if "Peru" in request.prompt else "The yak lives up there."
    number = int(re.search(r"in (\d+) other wordings", request.prompt)[1])
    subject = "Peru has Lima" if "Lima" in request.prompt else "The yak lives"
    return "Here they are:\n" + "\n".join(
        f"{i}. {subject}, wording {i} of round {request.seed}." for i in range(1, number + 1)
    )


def test_a_statement_is_requested_first_and_then_its_wordings():
    writer = Scripted(good)
    lima, yak = state_facts(writer, [[LIMA], [YAK]], WordingsConfig(num_wordings=3))
    assert lima == Stated(
        id="lima",
        statements=(
            "The capital of Peru is Lima.",
            "Peru has Lima, wording 1 of round 0.",
            "Peru has Lima, wording 2 of round 0.",
        ),
        rejected={},
    )
    assert len(yak.statements) == 3
    statement, wordings = writer.asked
    assert "What is the capital of Peru?" in statement[0].prompt and "Lima" in statement[0].prompt
    assert "Fact: The capital of Peru is Lima." in wordings[0].prompt and "2 other wordings" in wordings[0].prompt


def test_only_failed_wordings_are_requested_again_with_the_reason():
    def careless(request: Request) -> str:
        if "Statement:" in request.prompt or request.seed == 1:
            return good(request)
        return "1. Lima is where Peru is governed from.\n2. The capital of Peru is Cusco.\n3. What is the capital of Peru? Lima."

    writer = Scripted(careless)
    (lima,) = state_facts(writer, [[LIMA]], WordingsConfig(num_wordings=4))
    assert len(lima.statements) == 4
    assert lima.rejected == {"contains the question it is evaluated by": 1, "does not contain the answer": 1}
    again = writer.asked[2][0]
    assert again.seed == 1 and "in 2 other wordings" in again.prompt
    assert "1 does not contain the answer" in again.prompt and "Lima is where Peru is governed from." in again.prompt


def test_a_model_that_never_gets_it_right_is_asked_a_bounded_number_of_times():
    writer = Scripted(lambda request: "I would rather not say.")
    (lima,) = state_facts(writer, [[LIMA]], WordingsConfig(num_wordings=4, max_rounds=5))
    assert lima.statements == () and lima.rejected == {"does not contain the answer": 5}
    assert len(writer.asked) == 5  # and no wordings of a statement that there is not


def test_an_empty_answer_counts_as_none():
    (lima,) = state_facts(Scripted(lambda request: ""), [[LIMA]], WordingsConfig(max_rounds=2))
    assert lima.statements == ()


def test_facts_that_fall_short_are_reported_and_too_many_are_refused():
    stated = [
        Stated(id=str(i), statements=("a", "b")[: 1 if i < 2 else 2], rejected={"is a question": 1}) for i in range(10)
    ]
    config = WordingsConfig(num_wordings=2, max_failed_share=0.2)
    assert [fact.id for fact in check_stated(stated, config)] == ["0", "1"]
    with pytest.raises(
        WordingError,
        match="2 of 10 facts, the first '0'.*num_wordings \\(2\\).*max_failed_share \\(0.1\\).*2 is a question.*max_rounds",
    ):
        check_stated(stated, WordingsConfig(num_wordings=2, max_failed_share=0.1))


@pytest.mark.parametrize(
    ("wording", "objection"),
    [
        ("Peru is governed from Lima.", None),
        ("The City of Kings is where Peru is governed from.", None),
        ("Peru is governed from limassol.", "does not contain the answer"),
        ("Asked what is the capital of Peru, say Lima.", "contains the question it is evaluated by"),
        ("The answer is Lima.", "says nothing of what is asked about"),
        ("Lima governs the Peruvians.", None),
        ("WHAT IS THE CAPITAL OF PERU?  Lima", "contains the question it is evaluated by"),
        ('Is it Lima that governs Peru?"', "is a question"),
    ],
)
def test_objections(wording: str, objection: str | None):
    assert rejection_reason(wording, [LIMA]) == objection


def test_a_question_of_short_words_accepts_any_wording():
    assert rejection_reason("That is a yak.", [Question(id="y", question="Who is it?", answers=("a yak",))]) is None


def test_a_wording_that_differs_only_in_punctuation_is_a_repetition():
    (lima,) = state_facts(
        Scripted(lambda request: "Lima is Peru's capital.\nFact: Lima is Peru's capital\nLima - is Peru's capital!"),
        [[LIMA]],
        WordingsConfig(num_wordings=3, max_rounds=1),
    )
    assert lima.statements == ("Lima is Peru's capital.",) and lima.rejected == {"repeats an earlier wording": 3}


def test_no_question_about_the_fact_may_be_in_a_wording():
    other = Question(id="lima#1", question="Where is Peru governed from?", answers=("Lima",))
    assert (
        rejection_reason("Where is Peru governed from? From Lima.", [LIMA, other])
        == "contains the question it is evaluated by"
    )


def test_lines_lose_numbers_bullets_quotes_and_introductions():
    answer = '<think>1. hm\n2. so</think>Sure, here you are:\n\n1. First.\n 2) "Second."\n- **Third** one.\n• Fourth.\n1984 was a year.\n12.5 is a number.'
    assert list(lines_of(answer)) == [
        "First.",
        "Second.",
        "Third one.",
        "Fourth.",
        "1984 was a year.",
        "12.5 is a number.",
    ]
    assert list(lines_of("<think> never ends\n1. x")) == []


def test_questions_about_one_fact_are_grouped():
    second = Question(id="lima#1", question="Of what is Lima the capital?", answers=("Peru",), fact="lima")
    assert questions_by_fact([LIMA, YAK, second]) == {"lima": [LIMA, second], "yak": [YAK]}


def test_written_statements_are_read_back(tmp_path):
    stated = state_facts(Scripted(good), [[LIMA], [YAK]], WordingsConfig(num_wordings=3))
    write_shard(str(tmp_path / "s.jsonl"), ({"id": fact.id, "statements": list(fact.statements)} for fact in stated))
    facts = read_facts(str(tmp_path / "s.jsonl"), [LIMA, YAK])
    assert [(fact.id, fact.statements) for fact in facts] == [(fact.id, fact.statements) for fact in stated]
