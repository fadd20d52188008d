import re
from collections.abc import Callable, Sequence

import pytest

from memlm.data.documents.chunking import Chunk
from memlm.data.documents.written_questions import AskedSentence, rejection, write_questions
from memlm.data.writers.interface import Request, Writer

SENTENCE = "Rooms are let by Ann Lee."
CHUNKS = [
    Chunk(document_id="d", number=0, title="Inn", text=f"{SENTENCE} Dogs bark."),
    Chunk(document_id="d", number=1, title="Inn", text="The inn has 40 beds."),
]
WRITTEN = {"Ann Lee": "Who lets rooms?", "40 beds": "How large is the inn?"}
READ = {question: part for part, question in WRITTEN.items()}


class Scripted(Writer):
    """A writer whose answers two functions decide: the question for a part, and the answer to a
    question."""

    def __init__(self, asks: Callable[[str], str], reads: Callable[[str], str]) -> None:
        self.asks, self.reads, self.asked = asks, reads, []

    def write(self, requests: Sequence[Request]) -> list[str]:
        self.asked.append(list(requests))
        return [self._answer(request.prompt) for request in requests]

    def _answer(self, prompt: str) -> str:
        if prompt.endswith("\nQuestion:"):
            return self.asks(re.findall(r"Answer: (.+)\nQuestion:$", prompt)[-1])
        return self.reads(re.findall(r"Question: (.+)\nAnswer:$", prompt)[-1])


def write(writer: Writer, *, max_rounds: int = 1, held_out: Sequence[str] = ()) -> list[list[AskedSentence]]:
    return write_questions(writer, CHUNKS, max_rounds=max_rounds, held_out=held_out)


def test_a_question_is_written_for_each_part_and_read_again():
    writer = Scripted(WRITTEN.__getitem__, lambda question: f"{READ[question]}.")
    assert write(writer) == [
        [AskedSentence(sentence=SENTENCE, question="Who lets rooms?", answer="Ann Lee")],
        [AskedSentence(sentence="The inn has 40 beds.", question="How large is the inn?", answer="40 beds")],
    ]
    asked, read = writer.asked
    assert f"Text: {SENTENCE}\nAnswer: Ann Lee" in asked[0].prompt and "exactly these words: Ann Lee" in asked[0].prompt
    assert f"Text: {SENTENCE}\nQuestion: Who lets rooms?" in read[0].prompt


def test_a_question_that_is_answered_otherwise_is_left_out():
    writer = Scripted(WRITTEN.__getitem__, lambda question: "Ann Lee")
    assert [len(written) for written in write(writer)] == [1, 0]


def test_a_question_that_is_held_out_is_never_written():
    writer = Scripted(WRITTEN.__getitem__, READ.__getitem__)
    assert [len(written) for written in write(writer, held_out=["who  lets Rooms?"])] == [0, 1]
    assert not any("Who lets rooms?" in request.prompt for request in writer.asked[1])


def test_a_question_is_kept_once_and_later_rounds_ask_with_another_seed():
    writer = Scripted(WRITTEN.__getitem__, READ.__getitem__)
    assert [len(written) for written in write(writer, max_rounds=3)] == [1, 1]
    assert [requests[0].seed for requests in writer.asked if requests and "exactly" in requests[0].prompt] == [0, 1, 2]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Rooms are let.", "is no question"),
        ("Are rooms let by ann lee?", "contains its answer"),
        ("Who is it?", "is about something else"),
        ("Who lets a room?", None),
    ],
)
def test_questions_that_teach_nothing_are_turned_down(question, reason):
    assert rejection(AskedSentence(sentence=SENTENCE, question=question, answer="Ann Lee")) == reason
