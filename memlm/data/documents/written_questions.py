"""Questions about the sentences of a chunk, by a language model, for chunks that are restated
sentence by sentence (sentence_wordings.py).

sentence + one of its parts --question.txt--> a question --reading.txt--> the part again, or the
question is left out

A question is kept only if the model, with the sentence before it, answers it by the part that it
was written for (round-trip consistency; Alberti et al. 2019, arXiv 1906.05416).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memlm.data.documents.chunking import Chunk, sentences_of
from memlm.data.documents.sentence_wordings import DETERMINERS, NO_NOUNS, parts_of
from memlm.data.mentions import mentions, plain, words_of
from memlm.data.prompts import prompt
from memlm.data.stating.paraphrasing import lines_of
from memlm.data.writers.interface import Request, Writer

QUESTION_PROMPT, READING_PROMPT = "question", "reading"
SMALL = frozenset([*DETERMINERS.split("|"), "has", "have", "had"])
"""Other words that say nothing of what a sentence is about."""


@dataclass(frozen=True, kw_only=True)
class AskedSentence:
    """A question that a sentence answers by one of its parts."""

    sentence: str
    question: str
    answer: str


def write_questions(
    writer: Writer, chunks: Sequence[Chunk], *, max_rounds: int, held_out: Collection[str]
) -> list[list[AskedSentence]]:
    """The questions about each chunk that pass, at most max_rounds about a part of a sentence; none
    that is held out."""
    parts = [(n, s, part) for n, chunk in enumerate(chunks) for s in sentences_of(chunk.text) for part in parts_of(s)]
    unusable = set(map(plain, held_out))
    written: list[list[AskedSentence]] = [[] for _ in chunks]
    for number in range(max_rounds):
        drafts = _ask(writer, parts, seed=number)
        usable = [(n, each) for n, each in drafts if plain(each.question) not in unusable and not rejection(each)]
        for n, each in _confirmed(writer, usable):
            unusable.add(plain(each.question))
            written[n].append(each)
    return written


def rejection(asked: AskedSentence) -> str | None:
    """The reason why a question must not be trained on; None if it may be."""
    if not asked.question.endswith("?"):
        return "is no question"
    if mentions(asked.question, asked.answer):
        return "contains its answer"
    stated = {word[:4] for word in words_of(asked.sentence) if len(word) > 2} - NO_NOUNS - SMALL
    if not any(word[:4] in stated for word in words_of(asked.question)):
        return "is about something else"
    return None


def _ask(writer: Writer, parts: Sequence[tuple[int, str, str]], *, seed: int) -> list[tuple[int, AskedSentence]]:
    requests = [Request(prompt=prompt(QUESTION_PROMPT, sentence=s, answer=part), seed=seed) for _, s, part in parts]
    answers = writer.write(requests) if requests else []
    return [
        (number, AskedSentence(sentence=sentence, question=_first_line(answer), answer=part))
        for (number, sentence, part), answer in zip(parts, answers, strict=True)
    ]


def _confirmed(writer: Writer, drafts: Sequence[tuple[int, AskedSentence]]) -> list[tuple[int, AskedSentence]]:
    """Those that the model answers, from the sentence, by the part."""
    requests = [
        Request(prompt=prompt(READING_PROMPT, sentence=each.sentence, question=each.question)) for _, each in drafts
    ]
    answers = writer.write(requests) if requests else []
    return [
        draft
        for draft, answer in zip(drafts, answers, strict=True)
        if plain(_first_line(answer)).strip(" .") == plain(draft[1].answer)
    ]


def _first_line(answer: str) -> str:
    return next(lines_of(answer), "").removeprefix("Question:").removeprefix("Answer:").strip()
