"""Jobs that are asked to stop, and units of work that kill their workers."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from memlm import artifacts, storage
from memlm.data.corpus.listing import list_corpus
from memlm.data.corpus.shards import ShardError, write_shard
from memlm.jobs import count_accesses, pareto_sweep, prepare_corpus, pretrain, pretrain_worker
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.preparing.corpus_shards import unit_of
from memlm.kinds import COUNTS_FILE
from memlm.run import RunError, run_of
from memlm.slots.counts import BackgroundCounts
from memlm.tracking import TrackingError
from tests.jobs.running import refused, smoke
from tests.support.swept import LEARNED
from tests.support.workers import kill, workers_of_this_process

pytestmark = pytest.mark.ray
LONG = (
    "--tracking",
    "off",
    "--pretraining.num-steps",
    "300",
    "--pretraining.log-every",
    "1",
    "--pretraining.checkpoint-every",
    "100000",
)
HEAVY = ("--counting.num-batches", "400", "--counting.batches-per-unit", "200")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cluster, swept) -> Path:
    """Runs with a corpus and nothing else."""
    root: Path = tmp_path_factory.mktemp("interrupted")
    for name in ("smoke", "both", "late"):
        swept.copy_to(root / name, without=LEARNED)
    return root


@contextmanager
def once(condition: Callable[[], bool], then: Callable[[], None]) -> Iterator[None]:
    """Do something from another thread as soon as the condition holds."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if condition():
                return then()
            time.sleep(0.001)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def last_step(run: Path) -> int:
    steps = [json.loads(path.read_text())["last_step"] for path in run.glob("training-memory/starts/*.json")]
    return max(steps, default=0)


def test_a_run_that_another_driver_trains_is_refused_before_any_work(runs, monkeypatch, capfd):
    config = smoke(runs, *LONG)
    monkeypatch.setattr(pretrain, "LEASE_SECONDS", 1.0)
    with storage.lease(run_of(config).pretraining_lease("memory"), owner="the other", ttl_seconds=30):
        with pytest.raises(storage.LeaseHeld, match="held by the other, epoch 1"):
            pretrain.run(config)
    assert "waiting at most 3 s for the lease" in capfd.readouterr().out
    assert not (runs / "smoke" / "training-memory").exists()


@pytest.mark.slow
def test_sigterm_saves_a_state_and_the_same_command_continues_from_it(runs, capfd):
    config = smoke(runs, *LONG)
    run, before = runs / "smoke", signal.getsignal(signal.SIGTERM)
    with once(lambda: last_step(run) >= 3, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        with pytest.raises(KeyboardInterrupt):
            pretrain.run(config)
    assert signal.getsignal(signal.SIGTERM) == before
    out = capfd.readouterr().out
    saved = re.search(r"pretrain memory: saved a state at step (\d+): stopping", out)
    assert saved and "asked to stop: saving a state, for at most 90 s" in out
    step = int(saved[1])
    states = sorted(path.name for path in run.glob("training-memory/step_*"))
    assert states == [f"step_{step:08d}_start_0001"] and 3 <= step < 300
    checkpoint = pretrain.run(config)
    out = capfd.readouterr().out
    assert f"step {step} of 300" in out and re.search(r"goodput [\d.]+% of \d+ s; 0 steps done again after 1 rest", out)
    details = storage.read_manifest(checkpoint).details
    assert details["goodput"]["restarts"] == 1 and details["goodput"]["steps_redone"] == 0
    assert 0 < details["goodput"]["share"] < 1
    assert not (run / "training-memory").exists()


@pytest.mark.slow
def test_sigterm_reaches_parallel_pretrainings(runs, capfd):
    """Pretrainings in threads, as in a sweep; threads receive no signals."""
    memory = smoke(runs, *LONG, "--run-name", "both")
    both, run = [memory, replace(memory, architecture="dense")], runs / "both"
    states = [Path(run_of(config).training_states(config.architecture)) for config in both]

    def training() -> bool:
        return all(list(folder.glob("starts/*.json")) and _last_step(folder) >= 3 for folder in states)

    with connect(memory), once(training, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        with pytest.raises(KeyboardInterrupt):
            pareto_sweep._pretrain_in_parallel(both)
    assert run.exists() and all(list(folder.glob("step_*")) for folder in states)
    assert capfd.readouterr().out.count(": stopping") == 2


def _last_step(folder: Path) -> int:
    return max(json.loads(path.read_text())["last_step"] for path in folder.glob("starts/*.json"))


@pytest.mark.slow
def test_a_worker_that_dies_after_the_checkpoint_costs_no_step(runs, capfd):
    config = smoke(runs, *LONG, "--run-name", "late", "--pretraining.num-steps", "6", "--pretraining.warmup-steps", "2")
    checkpoint = artifacts.checkpoint(config, "memory").uri
    with once(
        lambda: storage.has_artifact(checkpoint), lambda: kill(workers_of_this_process("RayTrainWorker")) and None
    ):
        assert pretrain.run(config) == checkpoint
    assert capfd.readouterr().out.count("step 0 of 6") == 1
    assert not Path(run_of(config).training_states("memory")).exists()


def test_reports_refused_by_the_tracking_server_are_logged_later(monkeypatch, capsys):
    logged: list[int] = []

    class Server:
        """The part of a tracked run that a report needs."""

        is_down = True

        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            if self.is_down:
                raise TrackingError("tracking uri", "http://here", "does not answer", "Start it.")
            logged.append(step)

    server, config = Server(), smoke("runs", "--pretraining.num-steps", "9")
    run = pretrain_worker._Pretraining(
        task=SimpleNamespace(config=config),
        engine=None,
        teacher=None,
        states=None,
        corpus=None,
        tracked=server,
        diary=None,
    )
    for step in (1, 2):
        run.unlogged.append((step, {"loss": 1.0}))
        run._log(last=False)
    assert "does not answer. Start it.; 1 reports will be logged later" in capsys.readouterr().out and not logged
    server.is_down = False
    run._log(last=False)  # no new attempt so soon
    assert not logged
    run._log(last=True)
    assert logged == [1, 2] and not run.unlogged


def test_training_continues_if_the_lease_cannot_be_read_and_ends_if_another_driver_holds_it(tmp_path, caplog):
    (tmp_path / "file").touch()
    unreadable = storage.Holder(uri=str(tmp_path / "file" / "lease.json"), owner="we", epoch=1, id="ours")
    assert pretrain_worker._holds_lease(unreadable) and "the lease could not be read" in caplog.text
    ours = storage.acquire(str(tmp_path / "lease.json"), owner="we").holder
    assert pretrain_worker._holds_lease(ours)
    (tmp_path / "lease.json").unlink()
    assert not pretrain_worker._holds_lease(ours)
    storage.acquire(ours.uri, owner="we")  # epoch 1 again
    assert not pretrain_worker._holds_lease(ours)


@pytest.mark.slow
def test_a_unit_that_kills_its_worker_is_quarantined_and_named(runs, capfd):
    if not storage.has_artifact(str(runs / "smoke" / "checkpoint-memory")):
        pretrain.run(smoke(runs, *LONG))
    attempts = runs / "smoke" / "counts-attempts" / "unit_0000200_0000400"
    options = (*LONG, *HEAVY, "--counting.max-attempts", "1")

    def begun() -> list[Path]:
        return list(attempts.glob("[0-9a-f]*_*"))

    def kill_worker() -> None:
        os.kill(json.loads(begun()[0].read_text())["pid"], signal.SIGKILL)

    with once(lambda: bool(begun()), kill_worker), pytest.raises(RunError) as refused:
        count_accesses.run(smoke(runs, *options), with_reads=False)
    assert "1 workers died" in str(refused.value) and "micro-batches 200 to 399" in str(refused.value)
    assert str(attempts.parent) in str(refused.value) and "counting.max_quarantined (0)" in str(refused.value)
    assert "unit_0000200_0000400 killed 1 workers and is now in quarantine" in capfd.readouterr().out

    counts = count_accesses.run(smoke(runs, *options, "--counting.max-quarantined", "1"), with_reads=False)
    out = capfd.readouterr().out
    assert "1 of 2 units are already counted" in out
    assert BackgroundCounts.load(Path(counts) / COUNTS_FILE).num_batches == 200
    assert storage.read_manifest(counts).details["quarantined"] == [[200, 400]]
    assert not attempts.parent.exists()
    with pytest.raises(RunError, match=r"was made without the units of micro-batches 200 to 399"):
        count_accesses.run(smoke(runs, *options), with_reads=False)


@pytest.mark.slow
def test_workers_that_die_while_loading_the_model_end_the_job_with_the_reason(runs, capfd):
    if not storage.has_artifact(str(runs / "smoke" / "checkpoint-memory")):
        pretrain.run(smoke(runs, *LONG))
    options = (*LONG, *HEAVY, "--cluster.num-trials-at-once", "1")
    storage.delete(str(runs / "smoke" / "counts"))
    attempts = runs / "smoke" / "counts-attempts"
    with killing_all_that_begin(attempts, "loading_*") as killed:
        line = refused(capfd, count_accesses.run, smoke(runs, *options, "--counting.max-attempts", "1"))
    assert len(set(killed)) == 1
    assert "1 workers died while they loaded" in line and "give nodes more memory" in line
    assert not list(attempts.glob("unit_*"))


def texts(number: int) -> list[dict[str, str]]:
    return [{"text": f"{each} plus {each} equals {2 * each}. " * 20} for each in range(number)]


@contextmanager
def killing_all_that_begin(attempts: Path, unit: str) -> Iterator[list[int]]:
    """Kill each worker that records an attempt at the unit, as if it ran out of memory."""
    killed: list[int] = []
    seen: set[Path] = set()

    def kill_next() -> bool:
        for path in sorted(set(attempts.glob(f"{unit}/[0-9a-f]*_*")) - seen):
            seen.add(path)
            killed.append(json.loads(path.read_text())["pid"])
            os.kill(killed[-1], signal.SIGKILL)
        return False

    with once(kill_next, lambda: None):
        yield killed


@pytest.mark.slow
@pytest.mark.parametrize("heavy, killers", [("heavy", "packed it"), ("_heavy", "read it for the tokenizer")])
def test_a_shard_that_kills_its_workers_is_quarantined_and_named(tmp_path, cluster, capfd, heavy, killers):
    """Second shard of the corpus, and the first one."""
    corpus, run, heavy_name = tmp_path / "corpus", tmp_path / "runs" / "smoke", f"{heavy}.jsonl.zst"
    for name, number in (("a", 300), (heavy, 30_000), ("z", 300)):
        write_shard(f"{corpus}/{name}.jsonl.zst", texts(number))
    (shard,) = [shard for shard in list_corpus(str(corpus)) if shard.name == heavy_name]
    options = ("--tracking", "off", "--corpus.path", str(corpus), "--corpus.max-attempts", "2")
    with killing_all_that_begin(run / "blocks-attempts", unit_of(shard)) as killed:
        with pytest.raises(ShardError) as refused:
            prepare_corpus.run(smoke(tmp_path / "runs", *options))
    assert len(set(killed)) == 2
    assert f"{corpus}/{heavy_name}: all corpus.max_attempts workers that {killers} died" in str(refused.value)
    assert re.search("move blocks-attempts .*out of the run's folder", str(refused.value))
    uri = prepare_corpus.run(smoke(tmp_path / "runs", *options, "--corpus.max-quarantined-share", "0.3"))
    assert f"quarantined: {corpus}/{heavy_name}: all corpus.max_attempts workers" in capfd.readouterr().out
    found = json.loads((Path(uri) / "accounting.json").read_text())
    assert list(found["quarantined"]) == [heavy_name]
    assert {name: found["shards"][name]["kept"] for name in ("a.jsonl.zst", "z.jsonl.zst")} == {
        "a.jsonl.zst": 300,
        "z.jsonl.zst": 300,
    }
    whole = found["total"]
    assert whole["lines"] == whole["kept"] + sum(whole["dropped"].values()) + sum(whole["malformed"].values())
    assert whole["lines"] == sum(shard["lines"] for shard in found["shards"].values())
    assert not (run / "blocks-attempts").exists()
