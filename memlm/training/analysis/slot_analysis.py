"""The slots of a fact, and the smallest number that suffices to learn it: the analysis of Lin et
al. 2025, section 6.

The paper does not state how it found the number that suffices. Here a fact counts as learned when
all its questions, in wordings never trained on, are answered by exact match after a fixed number of
steps, in each of which all of its wordings take part.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm.data import encoding
from memlm.data.questions.facts import Fact, FactBatch, fact_batch
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.continuations import Continuation, encode
from memlm.evaluation.fact_scores import questions_as_clozes
from memlm.evaluation.question_answering import answer_questions
from memlm.methods.config import SlotMethodConfig
from memlm.methods.method import LearningInputs
from memlm.model.reader import Reader
from memlm.slots.accesses import accesses_of, value_pools
from memlm.slots.core_sets import TokenReads, accessed_by_rows, core_set, intersection, reads_of_tokens
from memlm.slots.counts import BackgroundCounts, count_slots
from memlm.slots.ranking import RANKINGS
from memlm.slots.reads import BackgroundReads
from memlm.slots.selection import select_slots
from memlm.training.step import finetune_step


@dataclass(frozen=True, kw_only=True)
class FactSlots:
    """The slots of one fact in one model, before it is learned."""

    fact_id: str
    accessed: Int[Tensor, " accessed"]
    """Slots accessed by any of its wordings."""
    shared: Int[Tensor, " shared"]
    """Slots accessed by all of its wordings."""
    core: Int[Tensor, " core"]
    """Shared slots that question and answer read too, for each of its questions."""
    answering: Int[Tensor, " core"]
    """Slots of the core set that are read where the answer is predicted."""
    trainable: Int[Tensor, " trainable"]
    """Slots that the method would select for a batch of all its wordings."""


class TextReads(NamedTuple):
    """One row of the token page: its tokens and the slots that each reads."""

    label: str
    tokens: list[str]
    reads: list[TokenReads]


def slots_of_fact(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    fact: Fact,
    method: SlotMethodConfig,
    background: BackgroundCounts,
    *,
    max_length: int,
    seed: int = 0,
) -> FactSlots:
    device = next(model.parameters()).device
    batch = fact_batch(fact.id, fact.statements, tokenizer, max_length=max_length).to(device)
    slots = accesses_of(model, input_ids=batch.tokens)
    wordings = accessed_by_rows(slots, batch.is_token)
    asked, answered = [], []
    for cloze in questions_as_clozes(fact):
        reads, first = _reads_of_answering(model, tokenizer, cloze.prompt, cloze.continuation)
        asked.append(reads.flatten().unique())
        answered.append(reads[first:].flatten().unique())
    core = core_set(wordings, intersection(asked))
    return FactSlots(
        fact_id=fact.id,
        accessed=count_slots(slots, batch.is_token).slots,
        shared=intersection(wordings),
        core=core,
        answering=intersection([core, *answered]),
        trainable=trainable_slots(model, batch, method, background, num_slots=method.num_trainable_slots, seed=seed),
    )


def trainable_slots(
    model: nn.Module,
    batch: FactBatch,
    method: SlotMethodConfig,
    background: BackgroundCounts,
    *,
    num_slots: int,
    seed: int = 0,
) -> Int[Tensor, " trainable"]:
    """The slots that the method would select for a batch, if it might train `num_slots`."""
    counts = count_slots(accesses_of(model, input_ids=batch.tokens), batch.is_token)
    generator = torch.Generator().manual_seed(seed)
    scores = RANKINGS[method.ranking](counts, background.to(batch.tokens.device), generator)
    return select_slots(counts, scores, num_slots)


def _reads_of_answering(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str
) -> tuple[Int[Tensor, "seq reads"], int]:
    """The accesses of question and answer, and the first position that predicts the answer. The
    answer's last token predicts the end."""
    window = model.config.max_position_embeddings  # type: ignore[union-attr]
    ((whole, start),) = encode(tokenizer, [Continuation(prompt, continuation)], window)  # type: ignore[arg-type]
    tokens = torch.tensor([whole], device=next(model.parameters()).device)
    return accesses_of(model, input_ids=tokens)[0], start - 1


def minimum_slots_to_learn(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    fact: Fact,
    method: SlotMethodConfig,
    background: BackgroundCounts,
    *,
    reads: BackgroundReads | None = None,
    slot_counts: Sequence[int],
    num_steps: int,
    max_length: int,
    evaluation: EvaluationConfig,
    seed: int = 0,
) -> int | None:
    """The fewest of `slot_counts` trainable slots with which the fact is answered after num_steps
    steps; 0 if it is known before, None if none of the numbers suffices. The values are restored
    each time."""

    def answers() -> bool:
        answered = answer_questions(
            Reader(model.eval(), tokenizer),
            fact.questions,
            max_new_tokens=evaluation.max_new_tokens,
            batch_size=evaluation.batch_size,
        )
        return min(answered.exact_match) == 1

    if answers():
        return 0
    device = next(model.parameters()).device
    batch = fact_batch(fact.id, fact.statements, tokenizer, max_length=max_length).to(device)
    inputs = LearningInputs(background=background, seed=seed, reads=reads, statements=lambda fact_id: batch)
    for num_slots in sorted(slot_counts):
        with restored_values(model):
            config = replace(method, num_trainable_slots=num_slots)
            learner = config.build(model, inputs)
            for _ in range(num_steps):
                finetune_step(learner, [batch])
            if answers():
                return num_slots
    return None


@contextmanager
def restored_values(model: nn.Module) -> Iterator[None]:
    """Restore every value pool on leaving the context, from a copy."""
    before = [(pool, pool.weight.detach().clone()) for pool in value_pools(model)]
    try:
        yield
    finally:
        for pool, values in before:
            pool.weight.data.copy_(values)


def text_reads(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    fact: Fact,
    trainable: Int[Tensor, " trainable"],
    *,
    wordings: Sequence[str],
) -> list[TextReads]:
    """The rows of a token page, as in the paper's Table 1: each question with its answer, then
    wordings; each ends with its eos."""
    device = next(model.parameters()).device
    trainable = trainable.to(device)
    asked = [
        (f"question {number}", cloze.prompt + cloze.continuation)
        for number, cloze in enumerate(questions_as_clozes(fact), 1)
    ]
    rows = []
    for label, text in [*asked, *((f"wording {number}", wording) for number, wording in enumerate(wordings, 1))]:
        ids = [*encoding.encode(tokenizer, text), tokenizer.eos_token_id]
        reads = reads_of_tokens(accesses_of(model, input_ids=torch.tensor([ids], device=device))[0], trainable)
        rows.append(TextReads(label, [tokenizer.decode([token]) for token in ids], reads))
    return rows
