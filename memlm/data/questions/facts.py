"""The facts to learn, and their batches: one fact per step, as a batch of wordings of its statement
(Lin et al. 2025, section 5.1).

Each row is `<statement><eos>`, padded and not packed: if wordings were packed, the model would
copy one from its context instead of learning it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memlm.data.config import LossOn
from memlm.data.encoding import encode_all, padding_id
from memlm.data.questions.answer_tokens import after_question, answers_of, states_answer
from memlm.data.questions.records import Fact, Question, id_of, numbered_fact
from memlm.data.questions.sources import Row, read_rows


class FactError(ValueError):
    """The facts do not meet the stream's requirements."""


class FactBatch(NamedTuple):
    fact_id: str
    tokens: Int[Tensor, "wordings seq"]
    is_token: Bool[Tensor, "wordings seq"]
    """False on pads."""
    is_learned: Bool[Tensor, "wordings seq"] | None = None
    """True on the tokens to predict; None for all but pads."""

    @property
    def is_target(self) -> Bool[Tensor, "wordings seq"]:
        """True on the tokens whose loss is learned."""
        return self.is_token if self.is_learned is None else self.is_learned

    def to(self, device: torch.device) -> "FactBatch":
        learned = None if self.is_learned is None else self.is_learned.to(device)
        return FactBatch(self.fact_id, self.tokens.to(device), self.is_token.to(device), learned)


def read_facts(statements: str, questions: Sequence[Question]) -> list[Fact]:
    """Facts from statements (`{"id", "statements"}` per line; a path, s3:// or hf://) and the
    questions about them: those with a statement's id, or with that id followed by '#' and a number.
    Raises FactError."""
    rows = []
    for row in read_rows(statements):
        if not isinstance(row, Row):
            raise FactError(str(row))
        rows.append(row)
    known = {id_of(row.values.get("id")) for row in rows}
    asked: dict[str, list[Question]] = {}
    for question in questions:
        numbered = numbered_fact(question.id)
        fact = numbered if question.id not in known and numbered in known else question.fact_id
        asked.setdefault(fact, []).append(replace(question, fact=fact))
    facts, stated_before = [], set[str]()
    for row in rows:
        id, stated = id_of(row.values.get("id")), row.values.get("statements")
        if id in stated_before:
            raise FactError(
                f"{statements}:{row.line}: fact {id!r} is stated on an earlier line too; put its statements into one line"
            )
        if not _is_texts(stated) or id not in asked:
            raise FactError(
                f"{statements}:{row.line}: fact {id!r} needs at least one statement, as text, and a question; repair or remove the line"
            )
        stated_before.add(id)
        facts.append(Fact(id=id, statements=tuple(stated), questions=tuple(asked.pop(id))))
    if asked:
        raise FactError(
            f"{statements}: {len(asked)} facts have questions but no statements, the first {next(iter(asked))!r}; add their statements"
        )
    return facts


def _is_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text for text in value)


def sample_facts(facts: Sequence[Fact], num_facts: int, *, seed: int) -> list[Fact]:
    """A random subset in random order, determined by the seed; all facts if num_facts is larger."""
    chosen = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(facts))[:num_facts]
    return [facts[index] for index in chosen]


def fact_stream(
    facts: Sequence[Fact],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_wordings: int,
    num_passes: int,
    max_length: int,
    seed: int,
    shuffle: bool = True,
    loss_on: LossOn = "all",
) -> Iterator[FactBatch]:
    """One batch per step. Each pass goes through all facts in a new order, each in num_wordings of
    its wordings, drawn anew.

    Without shuffling, every pass keeps the given order, as for documents. `loss_on` says which
    of its tokens are to be predicted. A fact with fewer wordings repeats them. A pure
    function of its arguments. Statements longer than max_length are refused at once, before the run
    begins.
    """
    for fact in facts:
        fact_batch(fact.id, fact.statements, tokenizer, max_length=max_length)
    return _fact_stream(facts, tokenizer, num_wordings, num_passes, max_length, seed, shuffle, loss_on)


def _fact_stream(
    facts: Sequence[Fact],
    tokenizer: PreTrainedTokenizerBase,
    num_wordings: int,
    num_passes: int,
    max_length: int,
    seed: int,
    shuffle: bool,
    loss_on: LossOn,
) -> Iterator[FactBatch]:
    for number in range(num_passes):
        random = np.random.Generator(np.random.Philox(key=[seed, number + 1]))
        for index in random.permutation(len(facts)) if shuffle else range(len(facts)):
            fact = facts[index]
            rounds = -(-num_wordings // len(fact.statements))
            order = np.concatenate([random.permutation(len(fact.statements)) for _ in range(rounds)])[:num_wordings]
            statements = [fact.statements[i] for i in order]
            batch = fact_batch(fact.id, statements, tokenizer, max_length=max_length)
            yield _with_targets(batch, statements, fact, tokenizer, loss_on)


def _with_targets(
    batch: FactBatch, statements: Sequence[str], fact: Fact, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn
) -> FactBatch:
    """The batch with only those tokens to predict. In `values`, a statement without an answer is
    predicted but for its end."""
    if loss_on == "all":
        return batch
    learned, answers = torch.zeros_like(batch.is_token), answers_of(fact)
    for row, statement in zip(learned, statements, strict=True):
        if loss_on == "values":
            marked = torch.tensor(states_answer(tokenizer, statement, answers))
            row[: len(marked)] = marked if marked.any() else True
        else:
            marked = torch.tensor([*after_question(tokenizer, statement), True])
            row[: len(marked)] = marked
    return batch._replace(is_learned=learned)


def fact_batch(
    fact_id: str, statements: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> FactBatch:
    rows = [[*row, tokenizer.eos_token_id] for row in encode_all(tokenizer, statements)]
    longest = max(map(len, rows))
    if longest > max_length:
        raise FactError(
            f"a statement of fact {fact_id!r} has {longest} tokens, more than stream.max_length ({max_length}); raise it or shorten the statement"
        )
    tokens = torch.full((len(rows), longest), padding_id(tokenizer))
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    lengths = torch.tensor([len(row) for row in rows])
    return FactBatch(fact_id, tokens, torch.arange(longest) < lengths[:, None])
