"""Gates: what a memory that was put into a base must pass before it is worth teaching.

The loss says that the base was not harmed. Usage and hub share say that the pool is used, and by
what share a question reads the slots of its statement says that a fact can be found again.
Perplexity alone proves nothing: a pool that nothing reads does no harm either.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memlm.data.config import QuestionSetConfig
from memlm.data.corpus.packing import document_positions
from memlm.data.encoding import encode
from memlm.data.questions import shipped
from memlm.data.questions.questions import read_set, require_questions, select
from memlm.data.questions.records import Fact
from memlm.data.stating.sets import statable
from memlm.data.stating.statements import facts_of_questions
from memlm.slots.accesses import accesses_of, num_slots
from memlm.slots.counts import usage_of
from memlm.training.step import next_token_loss

BLOCKS_AT_ONCE = 8
LOSS_BLOCKS = 16
"""Blocks on which losses are compared."""
NUM_PROBES = 50


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

    def numbers(self) -> dict[str, float]:
        return asdict(self)

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
        return told + [f"gate failed: {gate.name} {gate.rule}; {gate.remedy}" for gate in self.failed()]


MAX_ADDED_LOSS, MIN_USAGE, MAX_HUB_SHARE, MIN_QUESTION_READS = 0.05, 0.5, 0.25, 0.05
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
)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    base_loss: float,
) -> Measured:
    """Measure a memory on blocks of background text and on facts that come with memlm. `base_loss`
    is mean_loss of the base alone on the same blocks."""
    eos_id = end_of_text(tokenizer)
    found = usage_of(_accesses(model, blocks, eos_id=eos_id))
    return Measured(
        num_tokens=blocks.numel(),
        base_loss=base_loss,
        loss=mean_loss(model, blocks, eos_id=eos_id),
        usage=found["share_read"],
        hub_share=found["top_1_percent"],
        question_reads=question_reads(model, tokenizer, probe_facts()),
    )


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token between texts, or an id that no token has."""
    return -1 if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


@torch.no_grad()
def mean_loss(model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"], *, eos_id: int) -> float:
    """Nats per token on the first LOSS_BLOCKS blocks."""
    total, blocks = 0.0, blocks[:LOSS_BLOCKS].to(model.device)
    for tokens in blocks.split(BLOCKS_AT_ONCE):
        positions = document_positions(tokens, eos_id=eos_id)
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        total += float(next_token_loss(logits, tokens, torch.ones_like(tokens, dtype=torch.bool)))
    return total / (blocks.shape[0] * (blocks.shape[1] - 1))


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


def probe_facts() -> list[Fact]:
    """The first facts of the questions that come with memlm."""
    source = QuestionSetConfig(
        path=str(shipped.FOLDER / "entityquestions.jsonl.zst"),
        layout="entityquestions",
        shuffle=True,
        num_questions=NUM_PROBES,
        max_malformed_share=0.5,
    )
    questions = require_questions(source.path, select(read_set(source, report=_ignore), source))
    return facts_of_questions(statable(questions, source, report=_ignore))


def _ignore(message: str) -> None:
    """Nobody needs to know which of many probes are left out."""
