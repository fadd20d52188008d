"""Kills of the sweep's driver at random moments: no finished trial is lost or tried again, and the
frontier is the undisturbed one."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from tests.chaos.frame import Outcome, Row
from tests.jobs.running import ROOT, environment

SECONDS = 600.0
"""Limit for one driver, after which it counts as hanging."""
TIMES = ("seconds", "seconds_learning")


def kill_drivers(seed: int, small: bool) -> Outcome:
    """Kill the driver as the ledger grows, from before the first trial to after the last; then run
    once to the end."""
    kills, seeds = (1, 1) if small else (10, 5)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="memlm-chaos-") as folder:
        undisturbed = _Sweep(Path(folder, "undisturbed"), seeds)
        undisturbed.to_the_end()
        number = len(undisturbed.entries())
        disturbed = _Sweep(Path(folder, "disturbed"), seeds)
        disturbed.start_from(undisturbed)
        survived, again = 0, 0
        seen: dict[str, tuple[int, int]] = {}
        for after in sorted(rng.choices(range(number + 1), k=kills)):
            disturbed.kill(after, pause=rng.uniform(0, 0.4))
            found = disturbed.entries()
            again += sum(found.get(name) != identity for name, identity in seen.items())
            survived += seen.keys() <= found.keys()
            seen = found
        disturbed.to_the_end()
        again += sum(disturbed.entries()[name] != identity for name, identity in seen.items())
        differences = again + (disturbed.result() != undisturbed.result()) + abs(disturbed.tracked() - number)
        return Outcome(
            tries=kills,
            survived=survived,
            differences=differences,
            details={"trials": number, "tried_again": again, "tracked": disturbed.tracked()},
        )


class _Sweep:
    """`pareto_sweep.py smoke` in a folder of its own, with a model that has hardly been trained."""

    def __init__(self, storage: Path, seeds: int) -> None:
        self.storage = storage
        self.command = [
            *(sys.executable, "pipelines/pareto_sweep.py", "smoke", "--storage", str(storage)),
            *("--pretraining.num-steps", "6", "--pretraining.warmup-steps", "2", "--counting.num-batches", "4"),
            *("--sweep.seeds", *map(str, range(seeds))),
        ]

    @property
    def run(self) -> Path:
        return self.storage / "smoke"

    def start_from(self, other: "_Sweep") -> None:
        """Copy the other's artifacts, without its trials."""
        made = shutil.ignore_patterns("trials", "ray", "frontier.*", "report.html")
        shutil.copytree(other.run, self.run, ignore=made)

    def start(self) -> subprocess.Popen[bytes]:
        with self.storage.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(self.command, cwd=ROOT, env=environment(), stdout=log, stderr=log)

    def to_the_end(self) -> None:
        driver = self.start()
        try:
            assert driver.wait(SECONDS) == 0, self.log()
        finally:
            driver.kill()

    def kill(self, after: int, *, pause: float) -> None:
        """Kill the driver with SIGKILL once the ledger holds `after` trials, or when it has ended
        before."""
        driver, deadline = self.start(), time.monotonic() + SECONDS
        try:
            while driver.poll() is None and len(self.entries()) < after:
                assert time.monotonic() < deadline, f"a driver hangs: {self.log()}"
                time.sleep(0.02)
            time.sleep(pause)
            ended = driver.poll()
            assert ended in (None, 0), f"a driver ended with {ended} before it was killed: {self.log()}"
        finally:
            driver.kill()
            driver.wait()

    def log(self) -> str:
        return self.storage.with_suffix(".log").read_text()[-3000:]

    def entries(self) -> dict[str, tuple[int, int]]:
        """Inode and time of each trial's file, which show whether it is still the same file."""
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (self.run / "trials").glob("*.json")
        }

    def result(self) -> Any:
        return without_times((self.run / "frontier.json").read_bytes())

    def tracked(self) -> int:
        """Number of trials on the tracking server, which are runs below the sweep's."""
        client = MlflowClient(f"sqlite:///{self.storage}/mlflow.db")
        experiment = client.get_experiment_by_name("memlm pareto sweeps")
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        return sum("mlflow.parentRunId" in run.data.tags for run in runs)


def without_times(frontier: bytes) -> Any:
    """The content of a frontier.json without times and the run's name."""
    found = json.loads(frontier)
    del found["digest"], found["provenance"]  # the digest covers the times too
    for point in found["points"]:
        del point["seconds"], point["seconds_per_step"]
        for name in TIMES:
            point["scores"].pop(name, None)
    return found


ROWS = [
    Row(
        name="sweep_driver",
        bar="10 kills, nothing tried twice, nothing lost, the undisturbed frontier",
        tries=10,
        run=kill_drivers,
        seconds=420,
        small_seconds=0,  # three sweeps take more than a small tier may
    )
]
