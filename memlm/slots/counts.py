"""Counts of slot accesses: those of the current batch, and those of background text. All are
integers, merged by addition.

A batch's counts list accessed slots only, so their cost does not grow with the pool. Background
counts are one vector per pool: document frequency by micro-batch and by sequence, and total
accesses, each with its denominator.
"""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from memlm.model.kernels import kernels_for
from memlm.model.ranks import num_ranks
from memlm.slots.accesses import accesses_of_tokens


class SlotCounts(NamedTuple):
    """Number of times that each accessed slot was read."""

    slots: Int[Tensor, " accessed"]
    """In ascending order, without duplicates."""
    counts: Int[Tensor, " accessed"]


def count_slots(slots: Int[Tensor, "batch seq reads"], is_token: Bool[Tensor, "batch seq"]) -> SlotCounts:
    return SlotCounts(*kernels_for(slots).count(accesses_of_tokens(slots, is_token)))


def merge(parts: list[SlotCounts]) -> SlotCounts:
    """The counts of several micro-batches or ranks, added up; independent of their order."""
    if len(parts) == 1:
        return parts[0]
    slots, places = torch.cat([part.slots for part in parts]).unique(return_inverse=True)
    counts = torch.zeros_like(slots).index_add_(0, places, torch.cat([part.counts for part in parts]))
    return SlotCounts(slots, counts)


def usage_of(accesses: Int[Tensor, " all_slots"]) -> dict[str, float]:
    """Share of slots read, entropy over slots in nats, and the share of accesses that go to the top
    1 % of slots."""
    shares = accesses.sort(descending=True).values.double() / max(1, int(accesses.sum()))
    read = shares[shares > 0]
    return {
        "share_read": len(read) / len(shares),
        "entropy": float(-(read * read.log()).sum()),
        "top_1_percent": float(shares[: math.ceil(len(shares) / 100)].sum()),
    }


def merge_over_ranks(counts: SlotCounts) -> SlotCounts:
    """The counts of the global batch, identical on every rank. Exchanges accessed slots only."""
    if num_ranks() == 1:
        return counts
    lengths = [torch.zeros(1, dtype=torch.int64, device=counts.slots.device) for _ in range(num_ranks())]
    dist.all_gather(lengths, torch.tensor([len(counts.slots)], device=counts.slots.device))
    longest = int(max(length.item() for length in lengths))
    mine = torch.zeros(2, longest, dtype=torch.int64, device=counts.slots.device)
    mine[0, : len(counts.slots)], mine[1, : len(counts.slots)] = counts
    gathered = [torch.empty_like(mine) for _ in lengths]
    dist.all_gather(gathered, mine)
    return merge([SlotCounts(*part[:, : int(length)]) for part, length in zip(gathered, lengths, strict=True)])


@dataclass(frozen=True, kw_only=True)
class BackgroundCounts:
    """How common each slot is in background text (the paper's B). Can be added over micro-batches,
    shards and workers."""

    batch_frequency: Int[Tensor, " all_slots"]
    """Number of micro-batches in which the slot is read at least once: the paper's document
    frequency. A micro-batch is a fixed part of the corpus (training/counting.py), so the result
    does not depend on which worker counted it."""
    sequence_frequency: Int[Tensor, " all_slots"]
    """Number of sequences in which the slot is read at least once."""
    accesses: Int[Tensor, " all_slots"]
    num_batches: int
    num_sequences: int
    num_tokens: int

    @staticmethod
    def zero(num_slots: int, device: torch.device | None = None) -> "BackgroundCounts":
        empty = torch.zeros(3, num_slots, dtype=torch.int64, device=device)
        return BackgroundCounts(
            batch_frequency=empty[0],
            sequence_frequency=empty[1],
            accesses=empty[2],
            num_batches=0,
            num_sequences=0,
            num_tokens=0,
        )

    def usage(self) -> dict[str, float]:
        """How evenly background text uses the slots, and the denominators of the counts."""
        found = usage_of(self.accesses)
        return {
            "num_batches": self.num_batches,
            "num_sequences": self.num_sequences,
            "num_tokens": self.num_tokens,
            "share_read": found["share_read"],
            "share_in_every_batch": float((self.batch_frequency == self.num_batches).double().mean()),
            "top_1_percent": found["top_1_percent"],
        }

    @staticmethod
    def of_batch(
        slots: Int[Tensor, "batch seq reads"], is_token: Bool[Tensor, "batch seq"], *, num_slots: int
    ) -> "BackgroundCounts":
        """Counts of one micro-batch. A sequence of pads alone does not count as a sequence, and a
        micro-batch of such sequences does not count as a batch."""
        counter = BackgroundCounter(num_slots, slots.device)
        counter.add(slots, is_token)
        return counter.counts()

    def __add__(self, other: "BackgroundCounts") -> "BackgroundCounts":
        if len(self.accesses) != len(other.accesses):
            raise ValueError(
                f"background counts of {len(self.accesses)} slots and of {len(other.accesses)} slots cannot be added; "
                "they come from different models, so use counts of one model"
            )
        return BackgroundCounts(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        )

    def to(self, device: torch.device) -> "BackgroundCounts":
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def save(self, path: Path) -> None:
        tensors = {
            field.name: value if isinstance(value := getattr(self, field.name), Tensor) else torch.tensor(value)
            for field in fields(self)
        }
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)

    @staticmethod
    def load(path: Path) -> "BackgroundCounts":
        tensors = load_file(path)
        return BackgroundCounts(**{name: tensor if tensor.ndim else int(tensor) for name, tensor in tensors.items()})


class BackgroundCounter:
    """Accumulates counts one micro-batch at a time. The cost of a batch depends on its accesses,
    not on the pool, and its slots never leave the device."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.num_slots = num_slots
        self.batch_frequency, self.sequence_frequency, self.accesses = torch.zeros(
            3, num_slots, dtype=torch.int64, device=device
        )
        self.totals = torch.zeros(3, dtype=torch.int64, device=device)
        """Numbers of batches, sequences and tokens."""

    def add(self, slots: Int[Tensor, "batch seq reads"], is_token: Bool[Tensor, "batch seq"]) -> None:
        kernels = kernels_for(slots)
        first = torch.arange(len(slots), device=slots.device)[:, None, None] * self.num_slots
        in_sequences, counts = kernels.count(accesses_of_tokens(slots + first, is_token))
        read = in_sequences % self.num_slots
        self.accesses.index_add_(0, read, counts)
        self.sequence_frequency.index_add_(0, read, torch.ones_like(read))
        in_batch, _ = kernels.count(read)
        self.batch_frequency.index_add_(0, in_batch, torch.ones_like(in_batch))
        self.totals += torch.stack([is_token.any(), is_token.any(dim=1).sum(), is_token.sum()])

    def counts(self) -> BackgroundCounts:
        num_batches, num_sequences, num_tokens = self.totals.tolist()
        return BackgroundCounts(
            batch_frequency=self.batch_frequency,
            sequence_frequency=self.sequence_frequency,
            accesses=self.accesses,
            num_batches=num_batches,
            num_sequences=num_sequences,
            num_tokens=num_tokens,
        )
