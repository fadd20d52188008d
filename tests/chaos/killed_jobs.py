"""SIGKILL for the workers and drivers of counting and pretraining: the results are those of an
undisturbed run, to the bit."""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memlm import artifacts, storage
from memlm.config import Config
from memlm.jobs import count_accesses, pretrain
from memlm.kinds import COUNTS_FILE, READS_FILE
from memlm.run import run_of
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from tests.chaos.frame import Outcome, Row
from tests.chaos.smoke_run import (
    NUM_STEPS,
    OPTIONS,
    copy_of_run,
    counts_of_one_process,
    differing,
    meanwhile,
    reads_of_one_process,
    undisturbed_checkpoint,
    wait_until,
)
from tests.jobs.running import ROOT, environment
from tests.support.workers import kill, workers_of_this_process

UNITS_BETWEEN = 8
"""Most units counted between two kills."""
STEPS_BETWEEN = 7


def partials_in(config: Config) -> dict[str, int]:
    """Committed partial counts, with the time of their commit."""
    folder = Path(artifacts.counts(config).units)
    found = {}
    for manifest in folder.glob(f"[!.]*/{storage.MANIFEST}"):  # a draft has one too, just before it is renamed
        try:
            found[manifest.parent.name] = manifest.stat().st_mtime_ns
        except FileNotFoundError:  # the job is done with it
            continue
    return found


def counted(config: Config) -> BackgroundCounts:
    return BackgroundCounts.load(Path(count_accesses.run(config)) / COUNTS_FILE)


def reads(config: Config) -> BackgroundReads:
    return BackgroundReads.load(artifacts.reads(config).open() / READS_FILE)


def lose_counting_workers(seed: int, small: bool) -> Outcome:
    """Kill both workers at once, several times in each of several whole counts."""
    kills, differences, by_seed = 0, 0, []
    with copy_of_run(without="counts*") as config:
        while len(by_seed) < (1 if small else 5) or kills < (1 if small else 30):
            choices = random.Random(f"{seed}/{len(by_seed)}")
            killed: list[int] = []

            def disturb(over: threading.Event, choices=choices, killed=killed) -> None:
                for _ in range(1 if small else 3):
                    target = len(partials_in(config)) + choices.randint(1, UNITS_BETWEEN)
                    if wait_until(lambda target=target: len(partials_in(config)) >= target, over):
                        time.sleep(choices.uniform(0, 0.05))
                        killed.append(kill(workers_of_this_process("CountUnits")))

            with meanwhile(disturb):
                counts = counted(config)
            kills += sum(killed)
            by_seed.append(sum(killed))
            differences += differing(counts, counts_of_one_process()) + differing(reads(config), reads_of_one_process())
            for made in (artifacts.counts(config), artifacts.reads(config)):
                shutil.rmtree(made.uri)
            assert len(by_seed) < 20, f"kills come too late: {by_seed}"
    return Outcome(
        tries=kills, survived=0 if differences else kills, differences=differences, details={"kills_by_seed": by_seed}
    )


def lose_counting_driver(seed: int, small: bool) -> Outcome:
    """Kill the driver: units committed before a kill are neither counted nor written again."""
    choices, kills, survived = random.Random(seed), 0, 0
    with copy_of_run(without="counts*") as config:
        while kills < (1 if small else 10):
            before = partials_in(config)
            kill_driver_after(choices.randint(1, UNITS_BETWEEN), config)
            kills += 1
            survived += before.items() <= partials_in(config).items()
        counts = counted(config)
        differences = differing(counts, counts_of_one_process()) + differing(reads(config), reads_of_one_process())
    return Outcome(tries=kills, survived=survived, differences=differences)


def kill_driver_after(num_units: int, config: Config) -> None:
    """Start a driver, and kill it once it has counted `num_units` more units."""
    target = len(partials_in(config)) + num_units
    kill_driver("count_accesses", config, once=lambda: len(partials_in(config)) >= target)


def kill_driver(pipeline: str, config: Config, *, once: Callable[[], bool]) -> None:
    driver = subprocess.Popen(
        [sys.executable, f"pipelines/{pipeline}.py", "smoke", "--storage", config.storage, *OPTIONS],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not once() and driver.poll() is None:
            time.sleep(0.005)
    finally:
        driver.kill()  # Ray's own processes notice, and end
    ended = driver.wait()
    assert ended == -signal.SIGKILL, f"the driver ended with {ended} before it was killed"


def lose_pretraining_worker(seed: int, small: bool) -> Outcome:
    """Kill the worker at random steps of one run, which must still end with the weights of the
    undisturbed run."""
    choices, wanted, killed_at = random.Random(seed), 1 if small else 20, []
    with copy_of_run(without="checkpoint-memory") as config:

        def last_step(number: int) -> int:
            return last_step_of(config, number)

        def disturb(over: threading.Event) -> None:
            for number in range(1, wanted + 1):
                if not wait_until(lambda number=number: last_step(number) >= 0, over):
                    return
                target = min(last_step(number) + choices.randint(0, STEPS_BETWEEN), NUM_STEPS - 1)
                if not wait_until(lambda number=number, target=target: last_step(number) >= target, over):
                    return
                time.sleep(choices.uniform(0, 0.03))
                if kill(workers_of_this_process("RayTrainWorker")):
                    killed_at.append(target)

        with meanwhile(disturb):
            checkpoint = pretrain.run(config)
        differences, goodput = compared_with_undisturbed(checkpoint)
    survived = len(killed_at) if goodput["restarts"] >= len(killed_at) and not differences else 0
    return Outcome(
        tries=len(killed_at),
        survived=survived,
        differences=differences,
        details={"killed_at_steps": killed_at, "goodput": goodput},
    )


def lose_pretraining_driver(seed: int, small: bool) -> Outcome:
    """Kill the driver. Its workers end when they notice, unless they finish first. The next driver
    waits for the lease that the dead one held."""
    choices, killed_at = random.Random(seed), []
    with copy_of_run(without="checkpoint-memory") as config:
        for number in range(1, (1 if small else 3) + 1):
            target = choices.randint(1, NUM_STEPS // 8) + max(last_step_of(config, number - 1), 0)
            kill_driver(
                "pretrain", config, once=lambda number=number, target=target: last_step_of(config, number) >= target
            )
            killed_at.append(last_step_of(config, number))
        differences, goodput = compared_with_undisturbed(pretrain.run(config))
    return Outcome(
        tries=len(killed_at),
        survived=0 if differences else len(killed_at),
        differences=differences,
        details={"killed_at_steps": killed_at, "goodput": goodput},
    )


def last_step_of(config: Config, number: int) -> int:
    """Last step of this start of the run; -1 before it trains."""
    path = Path(run_of(config).training_states("memory")) / "starts" / f"{number:04d}.json"
    try:
        start = json.loads(path.read_text())
    except FileNotFoundError:
        return -1
    return int(start["last_step"]) if start["begun"] else -1


def compared_with_undisturbed(checkpoint: str) -> tuple[int, dict[str, Any]]:
    """Number of files that differ, and the run's goodput."""
    found, expected = storage.read_manifest(checkpoint), undisturbed_checkpoint()
    storage.open_artifact(checkpoint)
    return sum(found.files.get(name) != file for name, file in expected.files.items()), found.details["goodput"]


ROWS = [
    Row(
        name="count_workers",
        bar="30 kills, 0 differing counts",
        tries=30,
        run=lose_counting_workers,
        seconds=170,
        small_seconds=20,
        starts_ray=True,
    ),
    Row(
        name="count_driver",
        bar="10 kills, nothing counted twice, nothing lost",
        tries=10,
        run=lose_counting_driver,
        seconds=310,
        small_seconds=25,
        starts_ray=True,
    ),
    Row(
        name="pretrain_worker",
        bar="20 kills, all continue bit for bit",
        tries=20,
        run=lose_pretraining_worker,
        seconds=250,
        small_seconds=25,
        starts_ray=True,
    ),
    Row(
        name="pretrain_driver",
        bar="3 kills, all continue bit for bit",
        tries=3,
        run=lose_pretraining_driver,
        seconds=240,
        small_seconds=0,
    ),
]
