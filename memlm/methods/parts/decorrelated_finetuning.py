"""Decorrelated sparse memory finetuning, ours: of the value pool, the rows that a fact reads move,
along (I + C / lambda)^-1 times their gradient (slots/decorrelation.py).

all statements of the fact -> their reads -> T, its rows in all passes -> read -> backward
-> the step on T -> write

Keys and everything below the first memory layer are frozen, so neither a fact's reads nor its
factor change from pass to pass. Above a first memory layer, reads change as its values move: there
C, taken from the base model, is an approximation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.data.questions.facts import FactBatch
from memlm.methods.method import LearningInputs, sum_over_ranks
from memlm.methods.parts.slot_finetuning import SlotFinetuning
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig
from memlm.model.memory import ValuePool
from memlm.model.weighted_read import OutputGradients
from memlm.slots.accesses import reads_in
from memlm.slots.counts import SlotCounts, count_slots
from memlm.slots.decorrelation import MAX_INVERSE, Decorrelation, inverse, solve
from memlm.slots.kept import key_of
from memlm.slots.learned_reads import LearnedReads
from memlm.slots.ranking import RANKINGS
from memlm.slots.reads import BackgroundReads
from memlm.slots.selection import select_slots


@dataclass(frozen=True, kw_only=True)
class FactRows:
    """What the statements of a fact read, and the rows that it moves."""

    fact_id: str
    slots: Int[Tensor, " rows"]
    """T, ascending, in the numbering of all pools."""
    num_accessed: int
    reads: BackgroundReads
    """Those of its statements' tokens, one statement after another."""
    first_tokens: dict[tuple[int, ...], int]
    """The place of each statement's first token among them, by its tokens."""
    key: bytes
    """Digest of slots and reads."""


class DecorrelatedFinetuning(SlotFinetuning):
    def __init__(self, model: nn.Module, config: SparseMemoryDecorrelatedConfig, inputs: LearningInputs) -> None:
        assert inputs.background is not None and inputs.reads is not None and inputs.statements is not None
        super().__init__(model, config, inputs.background, seed=inputs.seed, recording=inputs.recording)
        num_slots = len(self.background.accesses)
        if inputs.reads.num_slots != num_slots:
            raise ValueError(
                f"the background reads are of {inputs.reads.num_slots} slots and the model has {num_slots}; "
                "rerun pipelines/count_accesses.py for this checkpoint"
            )
        covered = inputs.reads.by_slot.num_slots_read
        if config.num_trainable_slots > covered:
            raise ValueError(
                f"method.num_trainable_slots is {config.num_trainable_slots}, and the background reads of {inputs.reads.num_tokens} tokens cover {covered} slots; "
                "set it to at most as many (0 takes all slots that a fact reads), or raise counting.read_tokens and rerun pipelines/count_accesses.py"
            )
        self.config = config
        self.statements = inputs.statements
        self.decorrelation = Decorrelation(inputs.reads, config.halved_at_tokens)
        self.learned = LearnedReads(config.continual)
        self.facts: dict[str, FactRows] = {}
        self.fact: FactRows | None = None
        """The fact of the step."""
        self.batches: list[FactBatch] = []
        self.outputs = OutputGradients()
        """The outputs of the step's reads, where the step is made from their gradients."""

    def choose(self, batches: list[FactBatch], report: dict[str, float]) -> None:
        self.close_step()
        fact = self._fact(batches[0].fact_id, rows_at_once=len(batches[0].tokens))
        self.fact, self.batches = fact, batches
        if self._steps_by_token(fact):
            (pool,) = self.pools
            pool.announce_write(fact.slots)
            self.opened.enter_context(pool.sending_gradients_to(self.outputs))
        else:
            self._open_rows(fact.slots)
            if not self.rows:  # all rows belong to other facts: the step moves none
                self._open(self.pools[0], fact.slots)
        report["num_accessed_slots"] = fact.num_accessed
        self._select_rows(fact.slots, self.background, report)

    def _fact(self, fact_id: str, *, rows_at_once: int) -> FactRows:
        if fact_id not in self.facts:
            self.facts[fact_id] = self._rows_of(fact_id, rows_at_once)
        return self.facts[fact_id]

    def _rows_of(self, fact_id: str, rows_at_once: int) -> FactRows:
        batch = self.statements(fact_id).to(self.background.accesses.device)
        slots, weights = self._reads_of(batch, rows_at_once)
        counts = count_slots(slots.flatten(-2), batch.is_token)
        lengths = batch.is_token.sum(dim=1)
        first_tokens = zip(_texts(batch), (lengths.cumsum(0) - lengths).tolist(), strict=True)
        reads = BackgroundReads.of_batch(slots, weights, batch.is_token, num_slots=len(self.background.accesses))
        chosen = self._choose_rows(counts)
        return FactRows(
            fact_id=fact_id,
            slots=chosen,
            num_accessed=len(counts.slots),
            reads=reads,
            first_tokens={(): 0, **dict(first_tokens)},  # a row of pads is a text, too
            key=key_of(chosen, reads.slots, reads.weights),
        )

    def _reads_of(
        self, batch: FactBatch, rows_at_once: int
    ) -> tuple[Int[Tensor, "rows seq layers reads"], Float[Tensor, "rows seq layers reads"]]:
        """As they were found in an earlier trial of the same model, or found now."""

        def find() -> tuple[Tensor, Tensor]:
            found = [
                reads_in(self.model, lambda tokens=tokens: self.reader.logits(tokens))
                for tokens in batch.tokens.split(rows_at_once)
            ]
            slots, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
            return slots, weights

        if len(self.layers) > 1:  # an upper layer reads others, as the lower one learns
            return find()
        key = key_of("reads", batch.tokens, rows_at_once)
        slots, weights = self.decorrelation.reads.kept.get(key, find, max_bytes=self.config.kept_bytes)
        return slots, weights

    def _choose_rows(self, counts: SlotCounts) -> Int[Tensor, " rows"]:
        if self.config.owned_rows and self.facts:
            owned = torch.cat([fact.slots for fact in self.facts.values()])
            free = ~torch.isin(counts.slots, owned)
            counts = SlotCounts(counts.slots[free], counts.counts[free])
        scores = RANKINGS[self.config.ranking](counts, self.background, self.generator)
        return select_slots(counts, scores, self.config.num_trainable_slots)

    def _steps_by_token(self, fact: FactRows) -> bool:
        """Whether the step is made from the gradients of the reads' outputs: with fewer tokens than
        rows that is faster, and with one memory layer the weights of the reads are known."""
        return len(self.layers) == 1 and not 0 < len(fact.slots) <= fact.reads.num_tokens

    def update(self) -> None:
        assert self.fact is not None
        if self._steps_by_token(self.fact):
            (pool,) = self.pools
            self._write(pool, self.fact.slots, self._step_from_outputs(self.fact))
        else:
            for pool, (slots, values) in self.rows.items():
                assert values.grad is not None, "backward must run between choose and update"
                self._write(pool, slots, self._step_from_rows(self.fact, pool, values.grad))
        self.learned.learn(self.fact.fact_id, self.fact.reads)

    @torch.no_grad()
    def _write(self, pool: ValuePool, slots: Int[Tensor, " rows"], step: Float[Tensor, "rows value_dim"]) -> None:
        # The step is linear in the gradient, so the ranks' steps add up, and the sum is the same
        # on all of them.
        sum_over_ranks(step)
        moved = pool.weight[slots].float() - self.config.optimizer.learning_rate * step
        pool.weight.data[slots] = moved.to(pool.weight.dtype)

    def _step_from_outputs(self, fact: FactRows) -> Float[Tensor, "rows value_dim"]:
        """(I + C / lambda)^-1 W', kept for all tokens of the fact, times their gradients."""
        gradients = [output.grad for output in self.outputs.outputs if output.grad is not None]
        assert len(gradients) == len(self.batches), "backward must run between choose and update"
        tokens = torch.cat([_places(batch, fact.first_tokens) for batch in self.batches])
        by_token = self._kept(fact, self.pools[0], lambda factor: solve(factor, _columns(fact)).T.contiguous())
        return by_token[tokens].T @ torch.cat(gradients).float()

    def _step_from_rows(
        self, fact: FactRows, pool: ValuePool, gradient: Float[Tensor, "rows value_dim"]
    ) -> Float[Tensor, "rows value_dim"]:
        if len(gradient) <= MAX_INVERSE:
            return self._kept(fact, pool, inverse) @ gradient
        return solve(self._kept(fact, pool, lambda factor: factor), gradient)

    def _kept(
        self, fact: FactRows, pool: ValuePool, of_factor: Callable[[Float[Tensor, "rows rows"]], Tensor]
    ) -> Tensor:
        """What a step on the fact's rows of a pool needs of their factor: as it was made for an
        equal fact in an earlier pass or trial, or made now."""
        first = self.first_slots[pool]
        # By their rows and reads: above a first memory layer, these depend on what was learned.
        others = [self.facts[other].key for other in self.learned.others(fact.fact_id)]

        def make() -> tuple[Tensor, ...]:
            slots = self._slots_in(pool, fact.slots) + first
            learned = self.learned.products(fact.fact_id, slots.cpu()) if others else None
            return (of_factor(self.decorrelation.factor(slots, learned)),)

        decorrelation = self.decorrelation
        settings = (fact.slots.device, decorrelation.damping, decorrelation.reads.exponent, self.learned.weight)
        key = key_of(fact.key, self._steps_by_token(fact), first, settings, others)
        (kept,) = self.decorrelation.reads.kept.get(key, make, max_bytes=self.config.kept_bytes)
        return kept

    def close_step(self) -> None:
        super().close_step()
        self.fact, self.batches, self.outputs = None, [], OutputGradients()


def _texts(batch: FactBatch) -> list[tuple[int, ...]]:
    """The tokens of each row, without pads."""
    return [
        tuple(row[is_token].tolist()) for row, is_token in zip(batch.tokens.cpu(), batch.is_token.cpu(), strict=True)
    ]


def _places(batch: FactBatch, first_tokens: Mapping[tuple[int, ...], int]) -> Int[Tensor, " tokens"]:
    """The place of each of the batch's tokens among those of the fact's statements; any for a pad,
    which has no gradient."""
    texts = _texts(batch)
    if not first_tokens.keys() >= set(texts):
        raise ValueError(
            f"the batch of fact {batch.fact_id!r} holds a text that is not among its statements, so its reads are unknown; "
            "learn the fact's own statements"
        )
    first = torch.tensor([first_tokens[text] for text in texts], device=batch.tokens.device)
    before = batch.is_token.long().cumsum(dim=1) - 1
    return (first[:, None] + before).masked_fill(~batch.is_token, 0).flatten()


def _columns(fact: FactRows) -> Float[Tensor, "rows tokens"]:
    """W': the weights of the fact's tokens on its rows."""
    read, weights = fact.reads.slots.to(fact.slots.device), fact.reads.weights.to(fact.slots.device)
    columns = weights.new_zeros(len(fact.slots), len(read))
    places = torch.searchsorted(fact.slots, read.long()).clamp(max=max(0, len(fact.slots) - 1))
    moves = fact.slots[places] == read if len(fact.slots) else torch.zeros_like(read, dtype=torch.bool)
    tokens = torch.arange(len(read), device=read.device)[:, None].expand_as(read)
    return columns.index_put_((places[moves], tokens[moves]), weights[moves], accumulate=True)
