"""Background counts, how common slots are in a sample of the corpus, and background reads, which
of them are read together, and how sensitive the model is to what is read. The pure part of the
counting job: the micro-batches, and the counts or reads of one unit.

A micro-batch is defined by its number alone, which with the seed gives its blocks in the corpus. It
has one fixed shape and is never split. So counts, including document frequency by batch, depend
neither on the number of workers nor on retries. They are counts of the paper's 1,000 random batches
of pretraining text (section 4), drawn without repeats. Reads and sensitivities follow the same
rule, except that the last bits of a sum over units (sensitivities.py) depend on their size.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from memlm.data.corpus.blocks import Blocks, batch_ids
from memlm.data.corpus.packing import document_positions, is_text
from memlm.slots.accesses import accesses_of, num_slots, pools_of_layers, reads_of
from memlm.slots.counts import BackgroundCounter, BackgroundCounts
from memlm.slots.read_gradients import read_gradients
from memlm.slots.reads import BackgroundReads
from memlm.slots.sensitivities import Sensitivities
from memlm.training.config import CountingConfig
from memlm.training.units import num_batches


def count_unit(
    model: nn.Module, blocks: Blocks, batches: range, config: CountingConfig, *, eos_id: int, pad_id: int
) -> BackgroundCounts:
    counter = _counter_for(model)
    for tokens, positions, counted in _micro_batches(model, blocks, batches, config, eos_id=eos_id, pad_id=pad_id):
        counter.add(accesses_of(model, input_ids=tokens, position_ids=positions), counted)
    return counter.counts().to(torch.device("cpu"))


def read_unit(
    model: nn.Module, blocks: Blocks, batches: range, config: CountingConfig, *, eos_id: int, pad_id: int
) -> BackgroundReads:
    """With their sensitivities, if the config wants them."""
    micro_batches = _micro_batches(model, blocks, batches, config, eos_id=eos_id, pad_id=pad_id)
    parts = [
        _read(model, micro_batch, seed=config.seed, number=number, sensitivities=config.sensitivities)
        for number, micro_batch in zip(batches, micro_batches, strict=True)
    ]
    return reduce(add, parts)


def _read(
    model: nn.Module, micro_batch: "_MicroBatch", *, seed: int, number: int, sensitivities: bool
) -> BackgroundReads:
    tokens, positions, counted = micro_batch
    if not sensitivities:
        slots, weights = reads_of(model, input_ids=tokens, position_ids=positions)
        return BackgroundReads.of_batch(slots, weights, counted, num_slots=num_slots(model))
    draws = _draws(seed, number, tokens.shape)
    found = read_gradients(model, counted, draws, input_ids=tokens, position_ids=positions)
    return BackgroundReads.of_batch(
        found.slots,
        found.weights,
        counted,
        num_slots=num_slots(model),
        sensitivities=Sensitivities.of_batch(found.gradients, counted, pools=pools_of_layers(model)),
    )


def count_batches(
    model: nn.Module,
    batches: Iterable[tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]],
    *,
    eos_id: int,
) -> BackgroundCounts:
    """Counts of any batches of packed documents, each given as its tokens and a mask of those to
    count, for backgrounds other than the corpus."""
    counter = _counter_for(model)
    for tokens, is_token in batches:
        positions = document_positions(tokens, eos_id=eos_id)
        counter.add(accesses_of(model, input_ids=tokens, position_ids=positions), is_token)
    return counter.counts()


def read_batches(
    model: nn.Module,
    batches: Iterable[tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]],
    *,
    num_tokens: int,
    eos_id: int,
    sensitivities: bool,
) -> BackgroundReads:
    """The reads of the first of such batches, with their sensitivities or without, until
    `num_tokens` tokens were read or no batch is left."""
    parts: list[BackgroundReads] = []
    for number, (tokens, is_token) in enumerate(batches):
        micro_batch = _MicroBatch(tokens, document_positions(tokens, eos_id=eos_id), is_token)
        parts.append(_read(model, micro_batch, seed=0, number=number, sensitivities=sensitivities))
        if sum(part.num_tokens for part in parts) >= num_tokens:
            break
    return reduce(add, parts)


def counted_blocks(blocks: Blocks, config: CountingConfig) -> Int[Tensor, "counted block_size"]:
    """The blocks of all micro-batches, in their order; int32."""
    number = min(num_batches(config, len(blocks)) * config.batch_blocks, len(blocks))
    # One long batch is the micro-batches in a row: all lie in the first epoch of the order.
    return blocks.take(batch_ids(seed=config.seed, step=0, batch_size=number, num_blocks=len(blocks))).int()


def _counter_for(model: nn.Module) -> BackgroundCounter:
    return BackgroundCounter(num_slots(model), next(model.parameters()).device)


def _draws(seed: int, number: int, shape: tuple[int, int]) -> Float[Tensor, "batch seq"]:
    """Numbers in [0, 1), the same for a micro-batch of that number wherever it is read."""
    # Raw output, as for the order of blocks, which has the same keys and a counter from 0.
    random = np.random.Philox(key=[seed, number], counter=[0, 0, 0, 1])
    raw = random.random_raw(shape[0] * shape[1]) >> np.uint64(40)
    return torch.from_numpy(raw.astype(np.float32) / np.float32(2**24)).view(shape)


class _MicroBatch(NamedTuple):
    tokens: Int[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"]
    counted: Bool[Tensor, "batch seq"]


def _micro_batches(
    model: nn.Module, blocks: Blocks, numbers: range, config: CountingConfig, *, eos_id: int, pad_id: int
) -> Iterator[_MicroBatch]:
    device = next(model.parameters()).device
    for number in numbers:
        tokens, num_rows = _micro_batch(blocks, number, config, pad_id=pad_id)
        tokens = tokens.to(device)
        counted = is_text(tokens, eos_id=eos_id, pad_id=pad_id)
        counted[num_rows:] = False
        yield _MicroBatch(tokens, document_positions(tokens, eos_id=eos_id), counted)


def _micro_batch(
    blocks: Blocks, number: int, config: CountingConfig, *, pad_id: int
) -> tuple[Int[Tensor, "batch seq"], int]:
    """The batch in its fixed shape, and the number of its rows that are blocks."""
    size = min(config.batch_blocks, len(blocks) - number * config.batch_blocks)
    # The first epoch of the order names each block once. Rows that would come from the second are
    # padding.
    ids = batch_ids(seed=config.seed, step=number, batch_size=config.batch_blocks, num_blocks=len(blocks))[:size]
    tokens = torch.full((config.batch_blocks, blocks.block_size), pad_id)
    tokens[:size] = blocks.take(ids)
    return tokens, size
