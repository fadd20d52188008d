"""How are token blocks stored, and which ones does step s train on?

Written by `prepare_corpus`, read by `pretrain`, `count_accesses` and the likelihood score. The order of training is a
pure function of (seed, step), so a resumed run sees what the undisturbed one would have seen.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int
from torch import Tensor

COLUMN = "tokens"
# Random access decodes whole row groups, so they are small.
ROWS_PER_GROUP = 64
CACHE_BYTES = 128 * 2**20  # keeps a laptop's corpus decoded, and bounds a large one


class BlocksError(ValueError):
    """Blocks cannot be written, read or ordered as asked."""


def write_blocks(path: str, blocks: Iterable[Int[np.ndarray, " block_size"]]) -> int:
    """Write blocks of one size to a Parquet file and return how many; the file appears only when it is whole."""
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        raise BlocksError(f"{path}: no blocks to write: the corpus holds no documents. Check the corpus path.")
    block_size = len(first)
    schema = pa.schema([pa.field(COLUMN, pa.list_(pa.int32(), block_size), nullable=False)])
    blocks = chain([first], blocks)
    unfinished = Path(f"{path}.unfinished")
    num_blocks = 0
    try:
        # Token ids are close to random: a dictionary or statistics would cost time and save nothing.
        with pq.ParquetWriter(
            unfinished, schema, compression="zstd", use_dictionary=False, write_statistics=False
        ) as writer:
            while group := list(islice(blocks, ROWS_PER_GROUP)):
                if any(len(block) != block_size for block in group):
                    raise BlocksError(
                        f"{path}: blocks of different sizes, the first of {block_size}. Pack with one block_size."
                    )
                flat = pa.array(np.concatenate(group).astype(np.int32, copy=False))
                writer.write_table(pa.table([pa.FixedSizeListArray.from_arrays(flat, block_size)], schema=schema))
                num_blocks += len(group)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return num_blocks


class Blocks:
    """The blocks of several files as one sequence: files in the order given, rows in file order."""

    def __init__(self, paths: Sequence[str]) -> None:
        if not paths:
            raise BlocksError("no block files given. Run the preparation of the corpus first.")
        self._groups: list[tuple[pq.ParquetFile, int]] = []
        group_rows: list[int] = []
        sizes: dict[int, str] = {}
        for path in paths:
            file = _open(path)
            sizes.setdefault(file.schema_arrow.field(COLUMN).type.list_size, path)
            for group in range(file.num_row_groups):
                self._groups.append((file, group))
                group_rows.append(file.metadata.row_group(group).num_rows)
        if len(sizes) > 1:
            named = ", ".join(f"{size} in {path}" for size, path in sizes.items())
            raise BlocksError(
                f"block files of different block sizes: {named}. Prepare the corpus again with one block_size."
            )
        self.block_size = next(iter(sizes))
        self._starts = np.cumsum([0, *group_rows])
        self._cache: OrderedDict[int, Int[np.ndarray, "rows block_size"]] = OrderedDict()
        self._cache_bytes = 0

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, ids: Sequence[int] | Int[np.ndarray, " n"]) -> Int[Tensor, "n block_size"]:
        """The blocks with these numbers, in this order, as int64."""
        wanted = np.asarray(ids, dtype=np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if outside.size:
            raise BlocksError(f"block {outside[0]} does not exist: there are {len(self)}, numbered from 0.")
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        taken = np.empty((len(wanted), self.block_size), dtype=np.int64)
        for group in np.unique(groups):
            here = groups == group
            taken[here] = self._read_group(int(group))[wanted[here] - self._starts[group]]
        return torch.from_numpy(taken)

    def _read_group(self, group: int) -> Int[np.ndarray, "rows block_size"]:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        file, row_group = self._groups[group]
        column = file.read_row_group(row_group, columns=[COLUMN], use_threads=False).column(0).combine_chunks()
        rows = column.flatten().to_numpy().reshape(-1, self.block_size)
        self._cache[group] = rows
        self._cache_bytes += rows.nbytes
        while self._cache_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cache_bytes -= self._cache.popitem(last=False)[1].nbytes
        return rows


def batch_ids(*, seed: int, step: int, batch_size: int, num_blocks: int) -> Int[np.ndarray, " batch_size"]:
    """The blocks of one step: each epoch has its own order of all blocks, and batches run on from epoch to epoch."""
    for name, value, least in (
        ("seed", seed, 0),
        ("step", step, 0),
        ("batch_size", batch_size, 1),
        ("num_blocks", num_blocks, 1),
    ):
        if value < least:
            raise BlocksError(f"{name} is {value}, but must be at least {least}.")
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(places, num_blocks)
    ids = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = _epoch_order(seed, int(epoch), num_blocks)[offsets[here]]
    return ids


@lru_cache(maxsize=2)  # two epochs meet in a batch at most, unless the corpus is smaller than a batch
def _epoch_order(seed: int, epoch: int, num_blocks: int) -> Int[np.ndarray, " num_blocks"]:
    # Sorting the raw stream of a counter-based generator: numpy promises those bits for good, but not its shuffles.
    return np.argsort(np.random.Philox(key=[seed, epoch]).random_raw(num_blocks), kind="stable")


def _open(path: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise BlocksError(f"{path}: not a file of blocks ({error}). Prepare the corpus again.") from error
    names = file.schema_arrow.names
    if names != [COLUMN] or not pa.types.is_fixed_size_list(file.schema_arrow.field(COLUMN).type):
        raise BlocksError(
            f"{path}: not a file of blocks (its columns are {', '.join(names)}). Prepare the corpus again."
        )
    return file
