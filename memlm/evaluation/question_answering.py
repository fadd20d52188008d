"""Question answering: greedy answers, scored by exact match and F1 with the official normalisation.

Prompts of one length are answered together, so no prompt is ever padded and an answer does not
depend on its neighbours' lengths.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memlm.data.encoding import decode_all, encode_all, line_break_ids, padding_id
from memlm.data.questions.records import Question
from memlm.evaluation.answers import Normalize, exact_match, f1, normalize
from memlm.evaluation.continuations import Continuation, ContinuationNats, continuation_nats
from memlm.model.reader import Reader
from memlm.model.reader.prefixes import behind, prefix_of

PROMPT = "Question: {question}\nAnswer:"
"""The form of lm-evaluation-harness's TriviaQA task, at no examples."""
END_OF_LINE = "\n"
NEXT_QUESTION = "Question:"
"""Where a model that was shown examples begins another question of its own."""


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """One entry per question, in the order asked."""

    answers: tuple[str, ...]
    exact_match: tuple[float, ...]
    f1: tuple[float, ...]


def answer_questions(
    reader: Reader,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    batch_size: int,
    examples: Sequence[Question] = (),
    normalize: Normalize = normalize,
) -> AnswerScores:
    """Ask every question once, after the examples. An answer ends at the end of its line or of
    the text."""
    answers = complete(reader, prompts_of(questions, examples), max_new_tokens=max_new_tokens, batch_size=batch_size)
    pairs = list(zip(answers, questions, strict=True))
    return AnswerScores(
        answers=tuple(answers),
        exact_match=tuple(exact_match(answer, question.answers, normalize) for answer, question in pairs),
        f1=tuple(f1(answer, question.answers, normalize) for answer, question in pairs),
    )


def prompts_of(questions: Sequence[Question], examples: Sequence[Question] = ()) -> list[str]:
    """Each question in the prompt's form, after examples with their solutions, or their
    preferred answers where there are none."""
    shown = _shown(examples)
    return [shown + _asked(question) for question in questions]


@contextmanager
def after_examples(reader: Reader, examples: Sequence[Question]) -> Iterator[Reader]:
    """A reader whose prompts all stand behind solved examples, of which the keys and values are
    computed once. They must be prompts of questions, without examples."""
    if not examples:
        yield reader
        return
    tokens = torch.tensor(_example_tokens(reader.tokenizer, examples), device=reader.device)
    # Without the recording, which is of texts that stand behind nothing.
    with behind(reader.model, prefix_of(reader.model, tokens)):
        yield Reader(reader.model, reader.tokenizer)


def _example_tokens(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Question]) -> list[int]:
    """The tokens of the examples as they are where a question follows: two line breaks may be one
    token only at the end of a text."""
    shown = _shown(examples)
    alone, with_next, following = encode_all(tokenizer, [shown, shown + NEXT_QUESTION, NEXT_QUESTION])
    return with_next[: -len(following)] if with_next[-len(following) :] == following else alone


def _shown(examples: Sequence[Question]) -> str:
    return "".join(f"{_asked(example)} {example.solution or example.answers[0]}\n\n" for example in examples)


def _asked(question: Question) -> str:
    return (f"{question.context}\n" if question.context else "") + PROMPT.format(question=question.question)


def answer_nats(
    reader: Reader,
    questions: Sequence[Question],
    *,
    batch_size: int,
    examples: Sequence[Question] = (),
    unigram_nats: Float[Tensor, " vocab"] | None = None,
) -> list[ContinuationNats]:
    """The likelihood of each question's preferred answer after its prompt."""
    prompts = prompts_of(questions, examples)
    answers = [
        Continuation(prompt, f" {question.answers[0]}") for prompt, question in zip(prompts, questions, strict=True)
    ]
    return continuation_nats(reader, answers, batch_size=batch_size, unigram_nats=unigram_nats)


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts of one length that are answered together."""

    places: list[int]
    """Index of each among all prompts."""
    tokens: Int[Tensor, "batch seq"]


def prompt_batches(rows: Sequence[Sequence[int]], *, batch_size: int) -> Iterator[PromptBatch]:
    """Short prompts first, and prompts of one length in their order."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_length[len(row)].append(place)
    for _, places in sorted(by_length.items()):
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            yield PromptBatch(places=chosen, tokens=torch.tensor([rows[place] for place in chosen]))


def complete(
    reader: Reader,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    until: str = END_OF_LINE,
) -> list[str]:
    """The greedy continuation of each prompt up to the end of its line, or to another text where
    it stops.

    A tokenizer that writes no line breaks ends an answer where the next question would begin.
    """
    ends: list[int] = []
    stops = [until]
    if until == END_OF_LINE:
        ends = line_break_ids(reader.tokenizer)
        stops += [] if ends else [NEXT_QUESTION]
    rows = encode_all(reader.tokenizer, prompts)
    answers = continue_rows(reader, rows, max_new_tokens=max_new_tokens, batch_size=batch_size, ends=ends)
    for stop in stops:
        answers = [text.split(stop, 1)[0] for text in answers]
    return [text.strip() for text in answers]


def continue_rows(
    reader: Reader, rows: Sequence[Sequence[int]], *, max_new_tokens: int, batch_size: int, ends: Sequence[int] = ()
) -> list[str]:
    """The greedy continuation of each row of tokens up to the end of the text, or to one of these
    other ends."""
    tokenizer, texts = reader.tokenizer, [""] * len(rows)
    stops = {tokenizer.eos_token_id, *ends}
    for batch in prompt_batches(rows, batch_size=batch_size):
        continuations = reader.continue_greedily(
            batch.tokens.to(reader.device),
            max_new_tokens=max_new_tokens,
            end_ids=sorted(stops),
            pad_id=padding_id(tokenizer),
        )
        # Tokens after a row's end are padding, whatever their ids.
        written = [list(takewhile(lambda id: id not in stops, row)) for row in continuations.tolist()]
        for place, text in zip(batch.places, decode_all(tokenizer, written), strict=True):
            texts[place] = text
    return texts
