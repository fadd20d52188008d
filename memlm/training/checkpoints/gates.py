"""Gates: what a memory that was put into a base must pass before it is worth teaching, and the
controls that tell what it adds.

The loss says that the base was not harmed. Usage and hub share say that the pool is used, and by
what share a question reads the slots of its statement says that a fact can be found again, which
recall then shows. Perplexity alone proves nothing: a pool that nothing reads does no harm either.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memlm.data.corpus.packing import document_positions
from memlm.data.encoding import encode
from memlm.data.questions.records import Fact
from memlm.slots.accesses import accesses_of, num_slots, value_pools
from memlm.slots.counts import usage_of
from memlm.training.checkpoints.probes import Recall, probe_facts, recall_of_dense, recall_of_memory
from memlm.training.checkpoints.text_loss import BLOCKS_AT_ONCE, end_of_text, mean_loss

DEFAULT_PROBES = 20
"""Probe facts that are learned and asked."""


class Gate(NamedTuple):
    """A number that is measured, and what it must be."""

    name: str
    passes: Callable[["Measured"], bool]
    rule: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A memory in its base, as background text and probe facts find it."""

    num_tokens: int
    """Tokens of background text that usage was measured on; keys were not fitted to them."""
    base_loss: float
    """Nats per token of the base alone."""
    loss: float
    """With the memory."""
    usage: float
    """Share of the slots that are read."""
    hub_share: float
    """Share of the accesses that go to the top 1 % of slots."""
    question_reads: float
    """Share of the slots that a statement reads which its question reads too; mean of the probe
    facts."""
    zeroed_loss: float | None = None
    """Nats per token with all values zero, a control; None if they are."""
    recall: Recall | None = None
    """What it keeps of the probe facts; None if it learned none."""

    def numbers(self) -> dict[str, float]:
        return _numbers(self)

    def as_json(self) -> dict[str, Any]:
        return {**self.numbers(), "failed": [gate.name for gate in self.failed()]}

    def failed(self) -> list[Gate]:
        return [gate for gate in GATES if not gate.passes(self)]

    def lines(self) -> list[str]:
        """What was measured, in words, and what failed."""
        told = [
            f"loss {self.base_loss:.4f} nats per token of the base alone, {self.loss:.4f} with the memory",
            f"{self.usage:.1%} of the slots are read by {self.num_tokens:,} tokens; the top 1 % of slots take {self.hub_share:.1%} of the accesses",
            f"a question reads {self.question_reads:.1%} of the slots that a statement of its fact reads",
        ]
        if self.zeroed_loss is not None:
            told.append(f"control: loss {self.zeroed_loss:.4f} with all values zero")
        told += _lines_of(self.recall)
        return told + [f"gate failed: {gate.name} {gate.rule}; {gate.remedy}" for gate in self.failed()]


@dataclass(frozen=True, kw_only=True)
class MeasuredControl:
    """A dense network in the memory's place that computes as much per token."""

    num_parameters: int
    base_loss: float
    loss: float
    """Nats per token with it."""
    recall: Recall | None

    def numbers(self) -> dict[str, float]:
        return _numbers(self)

    def as_json(self) -> dict[str, Any]:
        return self.numbers()

    def lines(self) -> list[str]:
        told = (
            f"control: a dense network of {self.num_parameters:,} parameters in the memory's place, which computes as much: "
            f"loss {self.loss:.4f}, {self.base_loss:.4f} of the base alone"
        )
        return [told, *(f"control: {line}" for line in _lines_of(self.recall))]


def _numbers(measured: Measured | MeasuredControl) -> dict[str, float]:
    """What was measured, by name."""
    found = {each.name: getattr(measured, each.name) for each in fields(measured) if each.name != "recall"}
    if measured.recall is not None:
        recall = measured.recall
        found |= {"recall": recall.answered, "num_probes": recall.num_facts, "loss_after_probes": recall.loss}
    return {name: value for name, value in found.items() if value is not None}


def _lines_of(recall: Recall | None) -> list[str]:
    if recall is None:
        return []
    return [
        f"{recall.answered:.1%} of {recall.num_facts} facts that it did not know are answered in words that they were not learned in; "
        f"loss {recall.loss:.4f} after learning them"
    ]


MAX_ADDED_LOSS, MIN_USAGE, MAX_HUB_SHARE, MIN_QUESTION_READS, MIN_RECALL = 0.05, 0.5, 0.25, 0.05, 0.1
GATES = (
    Gate(
        "loss",
        lambda found: found.loss <= found.base_loss + MAX_ADDED_LOSS,
        f"must exceed the base's by at most {MAX_ADDED_LOSS} nats",
        "train the memory on text before it learns facts, or place it parallel",
    ),
    Gate(
        "usage",
        lambda found: found.usage >= MIN_USAGE,
        f"must be at least {MIN_USAGE:.0%}",
        "fit the keys to more text, or take fewer slots",
    ),
    Gate(
        "hub share",
        lambda found: found.hub_share <= MAX_HUB_SHARE,
        f"must be at most {MAX_HUB_SHARE:.0%}",
        "fit the keys to more and more varied text, or take another layer",
    ),
    Gate(
        "question reads",
        lambda found: found.question_reads >= MIN_QUESTION_READS,
        f"must be at least {MIN_QUESTION_READS:.0%}",
        "take an earlier layer, or more heads and a larger top_k",
    ),
    Gate(
        "recall",
        lambda found: found.recall is None or found.recall.answered >= MIN_RECALL,
        f"must be at least {MIN_RECALL:.0%}",
        "take an earlier layer, or train the memory on text with facts in many wordings",
    ),
)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    base_loss: float,
    num_probes: int,
) -> Measured:
    """Measure a memory on blocks of background text and on facts that come with memlm, of which it
    learns `num_probes` and forgets them again. `base_loss` is mean_loss of the base alone on the
    same blocks."""
    eos_id = end_of_text(tokenizer)
    found = usage_of(_accesses(model, blocks, eos_id=eos_id))
    return Measured(
        num_tokens=blocks.numel(),
        base_loss=base_loss,
        loss=mean_loss(model, blocks, eos_id=eos_id),
        usage=found["share_read"],
        hub_share=found["top_1_percent"],
        question_reads=question_reads(model, tokenizer, probe_facts()),
        zeroed_loss=_loss_without_values(model, blocks, eos_id=eos_id),
        recall=recall_of_memory(model, tokenizer, blocks, num_facts=num_probes),
    )


def measure_control(
    model: PreTrainedModel,
    names: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    base_loss: float,
    num_probes: int,
) -> MeasuredControl:
    """Measure as `measure` does the parameters of these names, which keep what they learn."""
    return MeasuredControl(
        num_parameters=sum(parameter.numel() for name, parameter in model.named_parameters() if name in names),
        base_loss=base_loss,
        loss=mean_loss(model, blocks, eos_id=end_of_text(tokenizer)),
        recall=recall_of_dense(model, names, tokenizer, blocks, num_facts=num_probes),
    )


def _loss_without_values(
    model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"], *, eos_id: int
) -> float | None:
    """The loss with all values zero; None if they are."""
    pools = value_pools(model)
    if not any(pool.weight.any() for pool in pools):
        return None
    kept = [pool.weight.data for pool in pools]
    try:
        for pool in pools:
            pool.weight.data = torch.zeros_like(pool.weight)
        return mean_loss(model, blocks, eos_id=eos_id)
    finally:
        for pool, values in zip(pools, kept, strict=True):
            pool.weight.data = values


def _accesses(
    model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"], *, eos_id: int
) -> Int[Tensor, " all_slots"]:
    counts = torch.zeros(num_slots(model), dtype=torch.int64)
    for tokens in blocks.to(model.device).split(BLOCKS_AT_ONCE):
        slots = accesses_of(model, input_ids=tokens, position_ids=document_positions(tokens, eos_id=eos_id))
        counts += slots.flatten().bincount(minlength=len(counts)).cpu()
    return counts


def question_reads(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> float:
    """Share of the slots that a fact's first statement reads which its first question reads too;
    mean of the facts."""

    def read_by(text: str) -> set[int]:
        tokens = torch.tensor([encode(tokenizer, text)[: model.config.max_position_embeddings]], device=model.device)
        return set(accesses_of(model, input_ids=tokens).flatten().tolist())

    shares = []
    for fact in facts:
        stated, asked = read_by(fact.statements[0]), read_by(fact.questions[0].question)
        shares.append(len(stated & asked) / len(stated))
    return sum(shares) / len(shares)
