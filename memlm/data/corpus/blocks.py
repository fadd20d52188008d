"""Storage of token blocks, and the choice of those that each training step uses.

Written by `prepare_corpus`, read by `pretrain`, `count_accesses` and the likelihood score. The
order of training is a pure function of (seed, step), so a resumed run sees the same blocks as an
uninterrupted one.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
CACHE_BYTES = 128 * 2**20  # enough to keep a laptop's corpus decoded, and a bound for a large one


class BlocksError(ValueError):
    """Blocks cannot be written, read or ordered as requested."""


def write_blocks(path: str, blocks: Iterable[Int[np.ndarray, " block_size"]]) -> int:
    """Write blocks of one size to a Parquet file and return their number. The file appears only
    when it is complete."""
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
        # Token ids are nearly random: a dictionary or statistics would cost time and save nothing.
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


@dataclass(frozen=True, kw_only=True)
class BlockFile:
    """A file that is fetched when one of its blocks is first needed."""

    fetch: Callable[[], str]
    num_blocks: int


class Blocks:
    """The blocks of several files as one sequence: files in the order given, rows in file order."""

    def __init__(self, files: Sequence[str | BlockFile]) -> None:
        """Open all paths at once; fetch only the first BlockFile."""
        if not files:
            raise BlocksError("no block files given. Run the preparation of the corpus first.")
        self._files = list(files)
        self._opened: dict[int, _OpenFile] = {}
        self.block_size = self._file(0).block_size
        sizes = [
            file.num_blocks if isinstance(file, BlockFile) else int(self._file(number).group_starts[-1])
            for number, file in enumerate(files)
        ]
        self._starts = np.cumsum([0, *sizes])
        self._cache: OrderedDict[tuple[int, int], Int[np.ndarray, "rows block_size"]] = OrderedDict()
        self._cache_bytes = 0

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, ids: Sequence[int] | Int[np.ndarray, " n"]) -> Int[Tensor, "n block_size"]:
        """The blocks with these numbers, in this order, as int64."""
        wanted = np.asarray(ids, dtype=np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if outside.size:
            raise BlocksError(f"block {outside[0]} does not exist: there are {len(self)}, numbered from 0.")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        taken = np.empty((len(wanted), self.block_size), dtype=np.int64)
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            rows, starts = wanted[here] - self._starts[number], self._file(int(number)).group_starts
            groups = np.searchsorted(starts, rows, side="right") - 1
            for group in np.unique(groups):
                those = groups == group
                taken[here[those]] = self._read_group(int(number), int(group))[rows[those] - starts[group]]
        return torch.from_numpy(taken)

    def _file(self, number: int) -> "_OpenFile":
        if number in self._opened:
            return self._opened[number]
        file = self._files[number]
        path = file if isinstance(file, str) else file.fetch()
        opened = _open(path)
        if isinstance(file, BlockFile) and opened.group_starts[-1] != file.num_blocks:
            raise BlocksError(
                f"{path}: holds {opened.group_starts[-1]} blocks, but should hold {file.num_blocks}. Prepare the corpus again."
            )
        first = next(iter(self._opened.values()), opened)
        if opened.block_size != first.block_size:
            raise BlocksError(
                f"block files of different block sizes: {first.block_size} in {first.path}, {opened.block_size} in {path}. "
                "Prepare the corpus again with one block_size."
            )
        self._opened[number] = opened
        return opened

    def _read_group(self, number: int, group: int) -> Int[np.ndarray, "rows block_size"]:
        if (number, group) in self._cache:
            self._cache.move_to_end((number, group))
            return self._cache[number, group]
        file = self._file(number).file
        column = file.read_row_group(group, columns=[COLUMN], use_threads=False).column(0).combine_chunks()
        rows = column.flatten().to_numpy().reshape(-1, self.block_size)
        self._cache[number, group] = rows
        self._cache_bytes += rows.nbytes
        while self._cache_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cache_bytes -= self._cache.popitem(last=False)[1].nbytes
        return rows


def batch_ids(*, seed: int, step: int, batch_size: int, num_blocks: int) -> Int[np.ndarray, " batch_size"]:
    """The blocks of one step. Each epoch has its own order of all blocks, and batches continue
    from one epoch into the next."""
    for name, value, minimum in (
        ("seed", seed, 0),
        ("step", step, 0),
        ("batch_size", batch_size, 1),
        ("num_blocks", num_blocks, 1),
    ):
        if value < minimum:
            raise BlocksError(f"{name} is {value}, but must be at least {minimum}.")
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(places, num_blocks)
    ids = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = _epoch_order(seed, int(epoch), num_blocks)[offsets[here]]
    return ids


@lru_cache(maxsize=2)  # a batch spans at most two epochs, unless the corpus is smaller than a batch
def _epoch_order(seed: int, epoch: int, num_blocks: int) -> Int[np.ndarray, " num_blocks"]:
    # Sort raw output of a counter-based generator: NumPy guarantees that these bits never change,
    # but not its shuffles.
    return np.argsort(np.random.Philox(key=[seed, epoch]).random_raw(num_blocks), kind="stable")


@dataclass(frozen=True, kw_only=True)
class _OpenFile:
    path: str
    file: pq.ParquetFile
    block_size: int
    group_starts: Int[np.ndarray, " groups_and_end"]
    """The first row of each row group, followed by the total number of rows."""


def _open(path: str) -> _OpenFile:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise BlocksError(f"{path}: not a file of blocks ({error}). Prepare the corpus again.") from error
    names = file.schema_arrow.names
    if names != [COLUMN] or not pa.types.is_fixed_size_list(file.schema_arrow.field(COLUMN).type):
        raise BlocksError(
            f"{path}: not a file of blocks (its columns are {', '.join(names)}). Prepare the corpus again."
        )
    rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return _OpenFile(
        path=path,
        file=file,
        block_size=file.schema_arrow.field(COLUMN).type.list_size,
        group_starts=np.cumsum([0, *rows]),
    )
