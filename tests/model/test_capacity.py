import re
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from memlm.free_memory import available_memory, free_in_control_groups
from memlm.model.capacity import pool_bytes, require_room_for_values
from memlm.model.column_split import ColumnSplit
from memlm.model.config import MemoryConfig
from memlm.training.config import PretrainingConfig
from tests.support.tiny import MEMORY, TWO_SEPARATE, TWO_SHARED, tiny_model

GIB = 2**30


def check(**changed: object) -> None:
    require_room_for_values(**{"num_half_keys": 9, "value_dim": 10, "num_pools": 1, **changed})


def refusal(**changed: object) -> str:
    with pytest.raises(ValueError) as refused:
        check(**changed)
    return str(refused.value)


def test_a_refusal_names_field_value_arithmetic_and_remedy():
    message = refusal(num_half_keys=200_000, value_dim=1024, copies=3, copies_are="values and two moments")
    assert "model.memory.num_half_keys is 200000: 200000^2 slots x 1024 (model.memory.value_dim)" in message
    assert f"x 4 bytes x 3 (values and two moments) = {200_000**2 * 1024 * 12 / 1e12:.3g} TB" in message
    assert re.search(
        r"and [\d.]+ [kMGT]B of memory are free; lower model.memory.num_half_keys to at most \d+, or", message
    )


@pytest.mark.parametrize("num_pools, copies", [(1, 1), (2, 3)])
def test_the_suggested_number_fits_and_a_much_larger_one_does_not(num_pools, copies):
    message = refusal(num_half_keys=200_000, value_dim=1024, num_pools=num_pools, copies=copies)
    fitting = int(re.search(r"at most (\d+)", message)[1])
    assert f"{num_pools} pools x " in message or num_pools == 1
    # The amount of free memory changes while others use the machine.
    check(num_half_keys=int(fitting * 0.9), value_dim=1024, num_pools=num_pools, copies=copies)
    refusal(num_half_keys=int(fitting * 1.2), value_dim=1024, num_pools=num_pools, copies=copies)


def test_columns_that_do_not_fit_a_rank_are_refused_with_the_arithmetic():
    message = refusal(
        num_half_keys=200_000, value_dim=1024, copies=3, copies_are="values and two moments", pool_split=16
    )
    assert (
        "x 1024 (model.memory.value_dim) / 16 (pretraining.pool_split) x 4 bytes x 3 (values and two moments)"
        in message
    )
    assert f"= {200_000**2 * 64 * 12 / 1e12:.3g} TB" in message and "more ranks (pretraining.pool_split)" in message
    whole = refusal(num_half_keys=200_000, value_dim=1024, copies=3)
    fitting, fitting_whole = (int(re.search(r"at most (\d+)", text)[1]) for text in (message, whole))
    assert fitting == pytest.approx(4 * fitting_whole, rel=0.1)  # a sixteenth of each row: four times the half-keys
    check(num_half_keys=int(fitting * 0.9), value_dim=1024, copies=3, pool_split=16)
    with pytest.raises(ValueError, match="pretraining.pool_split"):
        tiny_model(replace(MEMORY, num_half_keys=400_000), split=ColumnSplit(num_parts=2, part=0))


def test_a_pool_read_by_few_tokens_has_a_gradient_of_few_rows():
    held = pool_bytes(TWO_SEPARATE, pool_split=2, batch_tokens=4, micro_batch_tokens=2)
    assert held.values == 2 * 81 * 10 * 4 // 2 and held.moments == 2 * held.values
    assert held.gradient == 4 * (2 * 2 * 3) * (5 * 4 + 8)  # tokens, then layers * heads * top_k
    assert held.accesses == 2 * 2 * (2 * 2 * 3) * 12
    assert pool_bytes(TWO_SEPARATE, pool_split=2, batch_tokens=99, micro_batch_tokens=2).gradient == 2 * 81 * 28


@pytest.mark.parametrize("memory", [MEMORY, TWO_SHARED, TWO_SEPARATE], ids=["one", "shared", "separate"])
def test_a_model_that_cannot_fit_is_refused_at_once(memory: MemoryConfig):
    began = time.process_time()
    with pytest.raises(ValueError, match="model.memory.num_half_keys is 200000") as refused:
        tiny_model(replace(memory, num_half_keys=200_000))
    assert time.process_time() - began < 1
    assert ("2 pools x" in str(refused.value)) == (memory is TWO_SEPARATE)


def test_a_model_without_memory_layers_has_no_pool_to_fit():
    assert tiny_model(replace(MEMORY, num_half_keys=200_000), dense=True).memory_layers == []


@pytest.mark.parametrize(
    "name, stage, num_workers, tables",
    [("lazy_adam", 0, 1, 3), ("lazy_adam", 3, 4, 3), ("adamw", 0, 4, 4), ("adamw", 1, 1, 4), ("adamw", 2, 4, 2)],
)
def test_memory_for_training_a_pool_is_counted(name, stage, num_workers, tables):
    config = PretrainingConfig(pool_optimizer=name, zero_stage=stage)
    assert config.value_tables(num_workers)[0] == tables


def test_available_memory_is_no_more_than_the_machine_has():
    assert 0 < available_memory() <= psutil.virtual_memory().total
    assert available_memory(torch.device("cpu")) <= psutil.virtual_memory().total


def write_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def test_limits_of_all_control_groups_around_the_process(tmp_path):
    """Version 2: the nearest group is unlimited, but its parent is limited and has a cache that can
    be dropped."""
    (tmp_path / "membership").write_text("0::/pod/task\n")
    mount = tmp_path / "mount"
    write_group(
        mount / "pod" / "task", memory__max="max", memory__current=str(5 * GIB), memory__stat="anon 1\ninactive_file 2"
    )
    write_group(
        mount / "pod",
        memory__max=str(8 * GIB),
        memory__current=str(6 * GIB),
        memory__stat=f"anon 5\ninactive_file {GIB}",
    )
    assert list(free_in_control_groups(tmp_path / "membership", mount)) == [3 * GIB]


def test_limits_of_the_first_version_and_of_a_container_that_sees_its_own_group_at_the_mount(tmp_path):
    (tmp_path / "membership").write_text("5:devices:/\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n")
    write_group(
        tmp_path / "mount" / "memory",
        memory__limit_in_bytes=str(2 * GIB),
        memory__usage_in_bytes=str(GIB),
        memory__stat=f"cache 9\ntotal_inactive_file {GIB // 2}",
    )
    assert list(free_in_control_groups(tmp_path / "membership", tmp_path / "mount")) == [GIB + GIB // 2]


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert list(free_in_control_groups(tmp_path / "membership", tmp_path)) == []
