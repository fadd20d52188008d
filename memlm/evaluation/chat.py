"""Questions in a chat model's own form, as its tokenizer's template writes it: whether the reply
holds an accepted answer.

A reply is a sentence or more, so it is not compared with an answer as a whole.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from memlm.data.encoding import encode
from memlm.data.questions.records import Question, QuestionError
from memlm.evaluation.answers import comparable
from memlm.evaluation.question_answering import continue_rows
from memlm.model.reader import Reader

PLACE = "{question}"
"""Where the template's text is cut, so that a question never spells a special token."""


def reply_to(reader: Reader, questions: Sequence[Question], *, max_new_tokens: int, batch_size: int) -> tuple[str, ...]:
    """The greedy reply to each question, alone in a new chat. Raises QuestionError for a tokenizer
    without a template."""
    if not reader.tokenizer.chat_template:
        raise QuestionError(
            "the task chat asks in the form of the tokenizer's chat template, and it has none; choose another task for this set, or leave the set out"
        )
    rows = chat_rows(reader.tokenizer, questions)
    return tuple(continue_rows(reader, rows, max_new_tokens=max_new_tokens, batch_size=batch_size))


def chat_rows(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> list[list[int]]:
    """The tokens of a chat that consists of one question, up to where the reply begins."""
    written = tokenizer.apply_chat_template(
        [{"role": "user", "content": PLACE}], tokenize=False, add_generation_prompt=True
    )
    before, after = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in str(written).split(PLACE, maxsplit=1)
    )
    return [[*before, *encode(tokenizer, question.question), *after] for question in questions]


def holds_answer(reply: str, answers: Sequence[str]) -> float:
    """1 if the reply has the words of an answer next to each other, both normalised; else 0."""
    said = f" {comparable(reply)} "
    return float(any(f" {comparable(answer)} " in said for answer in answers))
