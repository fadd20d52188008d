"""Training states of one rank: the states that are kept, a full disk, and damaged states."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import torch
import torch.distributed as dist

from memlm import storage
from memlm.kinds import TRAINING_STATE_KIND
from memlm.training.checkpoints.checkpoint import TrainingStates
from memlm.training.config import PretrainingConfig
from tests.support.faults import client_environment, faulty_s3, make_bucket
from tests.support.ranks import run_ranks
from tests.support.tiny import state, tiny_model
from tests.training.pretraining.runs import INPUTS, make_blocks, no_file_above, run_steps, save_now, start, states_of

CONFIG = PretrainingConfig(num_steps=9, batch_blocks=4, micro_batch_blocks=2, warmup_steps=2, log_every=2, seed=3)


@pytest.fixture(scope="module")
def folder(one_rank, tmp_path_factory) -> str:
    """Blocks to train on, with a group of one rank around."""
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    make_blocks(folder)
    return folder


@pytest.fixture
def engine(folder):
    from memlm.training.engine import Engine

    return Engine(tiny_model().train(), CONFIG)


@pytest.fixture
def trained(folder, engine, tmp_path) -> TrainingStates:
    """States of the steps 1 to 3, of which the first is gone."""
    states = states_of(engine, str(tmp_path / "states"))
    for step in (1, 2, 3):
        run_steps(folder, engine, CONFIG, first_step=step - 1, last_step=step)
        save_now(states, step)
    return states


def weights_of(engine) -> dict:
    with engine.whole_weights() as model:
        return state(model)


def names_in(states: TrainingStates) -> list[str]:
    return sorted(os.listdir(states.uri))


def file_of(states: TrainingStates, step: int, name: str = "fragments_0.safetensors") -> Path:
    return Path(states.uri) / f"step_{step:08d}_start_0001" / "rank_0_of_1" / name


def loaded(states: TrainingStates, start: int = 2) -> tuple[int, dict]:
    from memlm.training.engine import Engine

    engine = Engine(tiny_model(seed=9).train(), CONFIG)
    return states_of(engine, states.uri, start=start).load_newest(), weights_of(engine)


def test_the_newest_two_are_kept(trained):
    assert names_in(trained) == ["step_00000002_start_0001", "step_00000003_start_0001"]


def test_a_state_holds_what_was_trained_when_it_was_begun_and_older_ones_stay_until_it_is_whole(folder, trained):
    wanted = weights_of(trained.engine)
    trained.save(4)  # of the weights as they are after step 3
    assert {"step_00000002_start_0001", "step_00000003_start_0001"} <= set(names_in(trained))
    run_steps(folder, trained.engine, CONFIG, first_step=3, last_step=5)
    trained.settle(wait=True)
    assert names_in(trained) == ["step_00000003_start_0001", "step_00000004_start_0001"]
    step, weights = loaded(trained)
    assert step == 4 and all(torch.equal(tensor, wanted[name]) for name, tensor in weights.items())
    assert any(not torch.equal(tensor, wanted[name]) for name, tensor in weights_of(trained.engine).items())


def test_a_later_start_keeps_its_states_apart_and_continues_with_the_newest(folder, trained):
    states = states_of(trained.engine, trained.uri, start=2)
    assert states.load_newest() == 3
    run_steps(folder, trained.engine, CONFIG, first_step=3, last_step=4)
    save_now(states, 3)  # what a start that had gone back would save at a step that is there
    assert names_in(trained) == ["step_00000003_start_0001", "step_00000003_start_0002"]
    save_now(states, 4)
    assert names_in(trained) == ["step_00000003_start_0002", "step_00000004_start_0002"]


# A disk that is full.


def test_a_state_that_cannot_be_written_is_skipped_and_training_continues(folder, trained, caplog):
    with no_file_above(4096):
        run_steps(folder, trained.engine, CONFIG, first_step=3, last_step=4)
        save_now(trained, 4)
    assert trained.num_failed == 1
    assert "step_00000004_start_0001 could not be saved" in caplog.text
    assert "and step_00000003_start_0001 is kept" in caplog.text
    assert names_in(trained) == ["step_00000003_start_0001"]  # no half a state, and room for the next
    assert loaded(trained)[0] == 3
    run_steps(folder, trained.engine, CONFIG, first_step=4, last_step=5)
    save_now(trained, 5)
    step, weights = loaded(trained)
    assert step == 5 and all(torch.equal(tensor, weights[name]) for name, tensor in weights_of(trained.engine).items())


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_file_system_leaves_the_newest_whole_state_and_a_later_one_is_saved_once_there_is_room(
    folder, engine, small_disk, caplog
):
    states = states_of(engine, str(small_disk / "states"))
    run_steps(folder, engine, CONFIG, last_step=1)
    save_now(states, 1)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(1024))
    run_steps(folder, engine, CONFIG, first_step=1, last_step=2)
    save_now(states, 2)
    assert states.num_failed == 1 and "no space left" in caplog.text
    assert loaded(states)[0] == 1 and names_in(states) == ["step_00000001_start_0001"]
    filler.unlink()
    save_now(states, 3)
    assert loaded(states)[0] == 3


def test_errors_other_than_storage_faults_are_raised(trained, monkeypatch):
    def broken(directory: Path) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(trained.engine, "save", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        save_now(trained, 4)


# What is not whole.


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["fragments_0.safetensors", "value_pools_0.safetensors", "manifest.json"])
def test_a_damaged_state_is_skipped_for_the_previous_one(trained, caplog, name):
    flip(file_of(trained, 3, name), 100)
    assert loaded(trained)[0] == 2
    assert "step_00000003_start_0001 is incomplete or damaged; trying the state before it" in caplog.text
    flip(file_of(trained, 2, name), 100)
    assert loaded(trained)[0] == 0


def test_without_its_manifest_a_state_was_never_finished(trained):
    file_of(trained, 3, storage.MANIFEST).unlink()
    assert loaded(trained)[0] == 2


def test_a_complete_state_under_another_states_name_is_not_used(trained, caplog):
    newest = file_of(trained, 3).parent
    shutil.rmtree(newest)
    shutil.copytree(file_of(trained, 2).parent, newest)
    assert loaded(trained)[0] == 2
    assert "does not match its name" in caplog.text


def test_an_artifact_of_another_kind_is_not_taken_for_a_state(trained):
    newest = file_of(trained, 3).parent
    shutil.rmtree(newest)
    claim = {"step": 3, "rank": 0, "num_ranks": 1}
    with storage.write_artifact(str(newest), kind="checkpoint", config=claim, inputs=INPUTS) as draft:
        shutil.copy(file_of(trained, 2), draft.path)
    assert loaded(trained)[0] == 2 and TRAINING_STATE_KIND != "checkpoint"


def test_other_files_next_to_the_states_are_left_alone(trained, caplog):
    caplog.set_level(logging.WARNING)
    (Path(trained.uri) / "starts").mkdir()
    (Path(trained.uri) / "step_00000009").mkdir()
    assert loaded(trained)[0] == 3 and caplog.text == ""
    save_now(trained, 4)
    assert {"starts", "step_00000009"} <= set(names_in(trained))


def two_workers_on_s3(rank: int, folder: str, uri: str, variables: dict[str, str]) -> None:
    """Both on one node, whose cache they share. The newest state is damaged on S3 before it is
    loaded."""
    from memlm.training.engine import Engine

    os.environ |= variables
    start(rank, 2, folder)
    engine = Engine(tiny_model().train(), replace(CONFIG, zero_stage=1))
    states, weights = states_of(engine, uri), []
    for step in (1, 2):
        run_steps(folder, engine, engine.config, first_step=step - 1, last_step=step)
        save_now(states, step)
        weights.append(weights_of(engine))
    dist.barrier()
    if rank == 0:
        damage_newest(uri)
    dist.barrier()
    engine = Engine(tiny_model(seed=9).train(), engine.config)
    assert states_of(engine, uri, start=2).load_newest() == 1
    assert all(torch.equal(tensor, weights[0][name]) for name, tensor in weights_of(engine).items())
    dist.destroy_process_group()


def damage_newest(uri: str) -> None:
    """One bit of rank 1's share."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/step_00000002_start_0001/rank_1_of_2/")
    (key,) = [found["Key"] for found in listed["Contents"] if found["Key"].endswith("/fragments_1.safetensors")]
    body = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    body[-1] ^= 1
    client.put_object(Bucket=bucket, Key=key, Body=bytes(body))


def test_ranks_of_one_node_load_from_s3_by_one_copy_and_leave_none(tmp_path):
    make_blocks(str(tmp_path))
    with faulty_s3() as proxy:
        uri = f"{make_bucket(proxy)}/states"
        variables = {**client_environment(proxy), "MEMLM_CACHE": str(tmp_path / "cache")}
        run_ranks(two_workers_on_s3, str(tmp_path), uri, variables, number=2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_readme_in_each_part_of_a_state_is_no_part_of_it(trained):
    for step in (2, 3):
        file_of(trained, step, storage.README).write_text("a note of somebody")
    parts = [Path(trained.uri) / f"step_{step:08d}_start_0001" / "rank_0_of_1" for step in (2, 3)]
    seen: list[str] = []
    trained.engine.load = lambda folder: seen.extend(sorted(os.listdir(folder)))
    trained._load(parts[:1])
    assert storage.README not in seen and "fragments_0.safetensors" in seen
