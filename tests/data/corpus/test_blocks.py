import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memlm.data.corpus import blocks as blocks_module
from memlm.data.corpus.blocks import BlockFile, Blocks, BlocksError, batch_ids, write_blocks


def numbered(first, count, size=8):
    return [
        np.full(size, number, dtype=np.int32) + np.arange(size, dtype=np.int32) * 1000
        for number in range(first, first + count)
    ]


@pytest.fixture
def two_files(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    assert write_blocks(paths[0], numbered(0, 150)) == 150
    assert write_blocks(paths[1], iter(numbered(150, 70))) == 70
    return paths


def test_every_block_is_found_in_file_then_row_order(two_files):
    blocks = Blocks(two_files)
    assert len(blocks) == 220 and blocks.block_size == 8
    ids = np.random.default_rng(0).permutation(220)
    taken = blocks.take(ids)
    assert taken.dtype == torch.int64 and taken.shape == (220, 8)
    assert taken[:, 0].tolist() == ids.tolist()
    assert (taken - taken[:, :1] == torch.arange(8) * 1000).all()
    assert Blocks(two_files[::-1]).take([0, 70])[:, 0].tolist() == [150, 0]


def test_a_file_is_fetched_once_and_only_if_one_of_its_blocks_is_needed(two_files):
    brought: list[str] = []

    def lazy(path: str, num_blocks: int) -> BlockFile:
        return BlockFile(fetch=lambda: brought.append(path) or path, num_blocks=num_blocks)

    a, b = two_files
    blocks = Blocks([lazy(a, 150), lazy(b, 70), lazy(a, 150), lazy(b, 71)])
    assert len(blocks) == 441 and brought == [a]
    ids = [*range(219, 369, 7), 0, 149]
    assert blocks.take(ids)[:, 0].tolist() == [number if number < 220 else number - 220 for number in ids]
    assert brought == [a, b, a]
    with pytest.raises(BlocksError, match="holds 70 blocks, but should hold 71"):
        blocks.take([440])


def test_repeated_and_no_blocks(two_files):
    blocks = Blocks(two_files)
    assert blocks.take([3, 3, 219, 3])[:, 0].tolist() == [3, 3, 219, 3]
    assert blocks.take([]).shape == (0, 8)


def test_the_cache_is_bounded_and_changes_nothing(two_files, monkeypatch):
    monkeypatch.setattr(blocks_module, "CACHE_BYTES", 64 * 8 * 4 * 2)
    blocks = Blocks(two_files)
    ids = np.random.default_rng(1).integers(0, 220, size=400)
    taken = torch.cat([blocks.take(part) for part in np.split(ids, 40)])
    assert taken[:, 0].tolist() == ids.tolist()
    assert blocks._cache_bytes == sum(rows.nbytes for rows in blocks._cache.values()) <= 64 * 8 * 4 * 2


def test_blocks_are_returned_as_copies(two_files):
    blocks = Blocks(two_files)
    blocks.take([5]).zero_()
    assert blocks.take([5])[0, 0] == 5


@pytest.mark.parametrize("outside", [-1, 220])
def test_a_block_number_out_of_range_is_refused(two_files, outside):
    with pytest.raises(BlocksError, match=f"block {outside} does not exist: there are 220"):
        Blocks(two_files).take([0, outside])


def test_a_failed_write_leaves_no_file(tmp_path):
    """Closing a Parquet writer leaves a file that looks complete, so it must not have the final
    name."""

    def failing():
        yield from numbered(0, 100)
        raise OSError("the corpus is gone")

    with pytest.raises(OSError, match="the corpus is gone"):
        write_blocks(str(tmp_path / "a.parquet"), failing())
    with pytest.raises(BlocksError, match="different sizes"):
        write_blocks(str(tmp_path / "a.parquet"), [*numbered(0, 2), *numbered(0, 1, size=9)])
    with pytest.raises(BlocksError, match="no blocks"):
        write_blocks(str(tmp_path / "a.parquet"), [])
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused(tmp_path, two_files):
    with pytest.raises(BlocksError, match="no block files"):
        Blocks([])
    with pytest.raises(BlocksError, match="not a file of blocks"):
        Blocks([str(tmp_path / "missing.parquet")])
    other = str(tmp_path / "other.parquet")
    pq.write_table(pa.table({"text": ["a"]}), other)
    with pytest.raises(BlocksError, match="columns are text"):
        Blocks([other])
    write_blocks(other, numbered(0, 1, size=16))
    with pytest.raises(BlocksError, match=r"8 in .*a\.parquet, 16 in .*other\.parquet"):
        Blocks([*two_files, other])


@pytest.mark.parametrize(("batch_size", "num_blocks"), [(4, 10), (1, 3), (7, 7), (10, 4), (3, 1)])
def test_each_epoch_has_every_block_once_and_batches_span_epochs(batch_size, num_blocks):
    row = np.concatenate(
        [batch_ids(seed=3, step=step, batch_size=batch_size, num_blocks=num_blocks) for step in range(num_blocks)]
    )
    epochs = row.reshape(batch_size, num_blocks)  # num_blocks steps of batch_size blocks are batch_size epochs
    assert (np.sort(epochs, axis=1) == np.arange(num_blocks)).all()


def test_order_depends_on_seed_epoch_and_step_alone():
    later = batch_ids(seed=5, step=900, batch_size=8, num_blocks=100)
    blocks_module._epoch_order.cache_clear()
    assert (batch_ids(seed=5, step=900, batch_size=8, num_blocks=100) == later).all()
    first = batch_ids(seed=5, step=0, batch_size=100, num_blocks=100)
    assert (first != batch_ids(seed=5, step=1, batch_size=100, num_blocks=100)).any()
    assert (first != batch_ids(seed=6, step=0, batch_size=100, num_blocks=100)).any()
    assert (first != np.arange(100)).any()


def test_the_order_is_pinned():
    """A resumed run must see the same order as before, even after an upgrade of NumPy."""
    assert batch_ids(seed=0, step=0, batch_size=10, num_blocks=10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert batch_ids(seed=1, step=3, batch_size=4, num_blocks=6).tolist() == [4, 2, 0, 1]


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"step": -1}, {"batch_size": 0}, {"num_blocks": 0}])
def test_bad_order_requests_are_refused(wrong):
    with pytest.raises(BlocksError, match=f"{next(iter(wrong))} is"):
        batch_ids(**{"seed": 0, "step": 0, "batch_size": 1, "num_blocks": 1, **wrong})
