"""One rank's pretraining: blocks in an order that is a pure function of (seed, step), so a resumed
run continues bit for bit.

The loop yields the result of each step and does no logging or storage, which is the job of
`jobs/pretrain.py`.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.data.corpus.blocks import Blocks, batch_ids
from memlm.data.corpus.packing import document_positions, is_text
from memlm.slots.accesses import memory_layers, on_accesses, value_pools
from memlm.slots.counts import usage_of
from memlm.training.config import PretrainingConfig
from memlm.training.finite import DivergedError
from memlm.training.step import divergence, next_token_loss, num_predicted

if TYPE_CHECKING:
    from memlm.training.engine import Engine  # imports DeepSpeed


Teacher = Callable[[Int[Tensor, "blocks block_size"], Int[Tensor, "blocks block_size"]], Float[Tensor, "*logits"]]
"""Logits of the base for tokens at their positions, without gradients."""


@dataclass(frozen=True, kw_only=True)
class PretrainingStep:
    """The result of step number `step` (from 1)."""

    step: int
    loss: float
    """Nats per token over the global batch."""
    divergence: float
    """KL(base || model), in nats per token over the same batch; 0 without distillation."""
    tokens_per_second: float
    """Tokens per second over all ranks since the last reported step."""
    seconds: float
    """Seconds of this step alone."""
    usage: dict[str, float]
    """Usage of the slots, in reported steps of a memory model."""


def learning_rate_share(step: int, config: PretrainingConfig) -> float:
    """Linear warm-up, then a cosine down to final_learning_rate. Steps count from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def pretrain(
    engine: "Engine",
    blocks: Blocks,
    config: PretrainingConfig,
    *,
    first_step: int,
    eos_id: int,
    pad_id: int,
    teacher: Teacher | None = None,
) -> Iterator[PretrainingStep]:
    """Train from first_step to the end, yielding after every step, with distillation if there is a
    teacher. Raises DivergedError when the loss or the gradient is not finite."""
    since, tokens_since = time.monotonic(), 0
    for step in range(first_step, config.num_steps):
        began = time.monotonic()
        reported = (step + 1) % config.log_every == 0 or step + 1 == config.num_steps
        engine.set_learning_rate(learning_rate_share(step, config))
        batch = blocks.take(
            batch_ids(seed=config.seed, step=step, batch_size=config.batch_blocks, num_blocks=len(blocks))
        ).to(engine.device)
        usage = _Usage(engine.model) if reported and memory_layers(engine.model) else None
        loss, distance = _train_batch(engine, batch, eos_id=eos_id, pad_id=pad_id, usage=usage, teacher=teacher)
        for what, value in (("loss", loss), ("gradient's norm", engine.gradient_norm)):
            if not math.isfinite(value):
                raise DivergedError(f"the {what} is {value} at step {step + 1}; {config.divergence_remedy}")
        tokens_since += batch.numel()
        now = time.monotonic()
        yield PretrainingStep(
            step=step + 1,
            loss=loss,
            divergence=distance,
            tokens_per_second=tokens_since / (now - since),
            seconds=now - began,
            usage=usage.summary() if usage else {},
        )
        if reported:
            since, tokens_since = time.monotonic(), 0


def _train_batch(
    engine: "Engine",
    batch: Int[Tensor, "blocks block_size"],
    *,
    eos_id: int,
    pad_id: int,
    usage: "_Usage | None",
    teacher: Teacher | None,
) -> tuple[float, float]:
    """The batch's loss and divergence from the teacher, before the step."""
    config, rank = engine.config, dist.get_rank()
    num_targets = num_predicted(is_text(batch, eos_id=eos_id, pad_id=pad_id))
    totals = torch.zeros(2, device=engine.device)
    mine = batch.view(engine.world_size, -1, batch.shape[1])[rank]
    for tokens in mine.split(config.micro_batch_blocks):
        is_token = is_text(tokens, eos_id=eos_id, pad_id=pad_id)
        positions = document_positions(tokens, eos_id=eos_id)
        autocast = torch.autocast(engine.device.type, torch.bfloat16, enabled=config.precision == "bf16")
        original = None
        if teacher is not None:  # before the model runs, whose graph would wait meanwhile
            with autocast, torch.no_grad():
                original = teacher(tokens, positions)
        with autocast, usage.counting(is_token) if usage else nullcontext():
            logits = engine.model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        loss = next_token_loss(logits, tokens, is_token) / num_targets
        totals[0] += loss.detach()
        if original is not None:
            distance = divergence(original, logits, is_token, temperature=config.distillation_temperature) / num_targets
            totals[1] += distance.detach()
            loss = loss + config.distillation_weight * distance
        # DeepSpeed takes the mean over micro-batches and ranks; the loss is already a share of
        # the global batch's.
        engine.backward(loss * engine.num_micro_batches * engine.world_size)
        engine.step()
    dist.all_reduce(totals)
    found = totals.tolist()
    return found[0], found[1]


class _Usage:
    """Usage of the pools by one step's batch, counted on the device."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        device = next(model.parameters()).device
        self.counts = torch.zeros(sum(pool.num_slots for pool in value_pools(model)), dtype=torch.int64, device=device)

    def counting(self, is_token: Tensor) -> AbstractContextManager[None]:
        def receive(number: int, slots: Tensor) -> None:
            self.counts += slots[is_token].flatten().bincount(minlength=len(self.counts))

        return on_accesses(self.model, receive)

    def summary(self) -> dict[str, float]:
        """The usage over all ranks."""
        dist.all_reduce(self.counts)
        return usage_of(self.counts)
