"""Losses of whole machines during counting, pretraining and a sweep: each job ends with the result
of an undisturbed one.

The cluster is real: a Ray head and three workers with addresses of their own (tests/nodes), jobs
submitted with a token, S3 that fails at one request in twenty, MLflow behind a password on
PostgreSQL. A machine that is lost says nothing to anybody: its cable is cut, its processes die,
and a new one joins in its place. Where the row says so, some losses are announced first, as spot
instances' are.
"""

import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from memlm import artifacts, storage
from memlm.kinds import COUNTS_FILE
from memlm.run import run_of
from memlm.slots.counts import BackgroundCounts
from tests.chaos.frame import Outcome, Row
from tests.chaos.smoke_run import OPTIONS, counts_of_one_process, differing, undisturbed_run
from tests.chaos.sweeps import without_times
from tests.jobs.running import artifacts_in, smoke
from tests.nodes.cluster import Site, site
from tests.nodes.namespaces import run_apart, why_not
from tests.nodes.servers import answer_of, postgres, postgres_programs
from tests.support.faults import plain_client

NUM_WORKERS = 3
FAULT_SHARE = 0.05
JOB_SECONDS = 900.0
NUM_STEPS = 360
PRETRAIN = (
    *("--cluster.num-workers", "2", "--cluster.max-failures", "100", "--pretraining.micro-batch-blocks", "8"),
    *(
        "--pretraining.num-steps",
        str(NUM_STEPS),
        "--pretraining.checkpoint-every",
        "15",
        "--pretraining.log-every",
        "1",
    ),
)
SWEEP = (
    *("--cluster.num-trials-at-once", "2", "--sweep.max-failures", "5", "--sweep.seeds", "0", "1"),
    *("--counting.num-batches", "4", "--evaluation.num-text-blocks", "8"),
    *("--pretraining.num-steps", "6", "--pretraining.warmup-steps", "2"),
)


def cannot_run() -> str:
    """The reason why this machine cannot simulate several; empty if it can."""
    return why_not() or ("" if postgres_programs() else "there is no PostgreSQL here (Debian: postgresql)")


def lose(what: str, *, losses: int, seed: int) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="memlm-nodes-"))
    folder.chmod(0o755)  # PostgreSQL is another user
    try:
        arguments: dict[str, Any] = {"what": what, "seed": seed, "losses": losses, "folder": str(folder)}
        if what == "count":
            unneeded = shutil.ignore_patterns("ray", "counts*")
            shutil.copytree(undisturbed_run() / "smoke", folder / "undisturbed", ignore=unneeded)
            counts_of_one_process().save(folder / "expected")
        with postgres(folder / "postgres") as database:
            result = run_apart("tests.chaos.node_loss", {**arguments, "database": database}, folder, timeout=3000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(**result)


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a row inside the namespaces."""
    folder = Path(arguments["folder"])
    lose_from = {"count": _while_counting, "pretrain": _while_pretraining, "sweep": _while_sweeping}[arguments["what"]]
    # With one CPU each, ranks of one pretraining are on several machines.
    cpus = 1 if arguments["what"] == "pretrain" else 2
    seed, database = arguments["seed"], arguments["database"]
    with site(folder, database, num_workers=NUM_WORKERS, worker_cpus=cpus, seed=seed) as here:
        here.s3.plan(seed=seed, share=FAULT_SHARE)
        outcome = lose_from(here, folder, random.Random(seed), arguments["losses"])
        outcome["details"] |= {"s3_requests": here.s3.requests, "s3_faults": dict(here.s3.injected)}
        seen = _seen_from_outside(here)
    outcome["details"] |= seen
    strangers = [seen[name] for name in ("ray_without_token", "ray_with_another_token", "mlflow_without_password")]
    outcome["differences"] += not seen["tracked_runs"]
    outcome["differences"] += sum(status not in (401, 403) for status in strangers)
    return outcome


class _Job:
    """A submitted job that keeps running while machines are lost."""

    def __init__(self, here: Site, folder: Path, name: str, pipeline: str, *options: str) -> None:
        self.here, self.log = here, folder / f"{name}.log"
        self.most_nodes = 0
        """Machines that were working at the same time when one was about to be lost."""
        arguments = (f"pipelines/{pipeline}.py", "smoke", *options, *here.options, "--run-name", name)
        self.process = here.cluster.submit(*arguments, log=self.log)
        self.config = smoke(here.storage, *options, "--run-name", name)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; False if the job ends first."""
        deadline = time.monotonic() + JOB_SECONDS
        while not condition():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"a job hangs: {self.log.read_text()[-5000:]}"
            time.sleep(0.1)
        return True

    def to_the_end(self) -> None:
        try:
            code = self.process.wait(JOB_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        assert code == 0, f"the job ended with {code}: {self.log.read_text()[-5000:]}"

    def lose_a_worker_of(self, name: str, *, first_say: str = "") -> bool:
        """Lose a machine that runs a process of this name, and add another in its place; False if
        none runs one.

        With `first_say` the loss is announced, and follows once the job has printed that text.
        """
        busy = [node for node in self.here.cluster.workers if node.processes(name)]
        if not busy:
            return False
        self.most_nodes = max(self.most_nodes, len(busy))
        if first_say:
            said = self.log.read_text().count(first_say)
            self.here.cluster.announce_loss(busy[0])
            if not self.wait_until(lambda: self.log.read_text().count(first_say) > said):
                return False
        busy[0].kill()
        self.here.cluster.add_worker()
        return True


def _names_below(here: Site, uri: str) -> list[str]:
    """A copy of all objects, taken from behind the proxy, without faults."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    pages = plain_client(here.s3).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [found["Key"].removeprefix(f"{prefix}/") for page in pages for found in page.get("Contents", [])]


def _put(here: Site, uri: str, body: bytes) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    plain_client(here.s3).put_object(Bucket=bucket, Key=key, Body=body)


def _get(here: Site, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    body: bytes = plain_client(here.s3).get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


def _upload(artifact: Path, uri: str) -> None:
    made = storage.read_manifest(str(artifact))
    with storage.write_artifact(uri, kind=made.kind, config=made.config, inputs=made.inputs) as draft:
        shutil.copytree(artifact, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        draft.details.update(made.details)
    assert storage.read_manifest(uri).digest == made.digest


def _copy_run(here: Site, *, without: tuple[str, ...]) -> None:
    """Copy artifacts of the undisturbed run into the run that loses nodes."""
    for name in _names_below(here, f"{here.storage}/whole"):
        if not name.startswith(without):
            _put(here, f"{here.storage}/lost/{name}", _get(here, f"{here.storage}/whole/{name}"))


def _while_counting(here: Site, folder: Path, choices: random.Random, losses: int) -> dict[str, Any]:
    for name in artifacts_in(folder / "undisturbed"):
        _upload(folder / "undisturbed" / name, storage.join(here.storage, "lost", name))
    job, lost = _Job(here, folder, "lost", "count_accesses", *OPTIONS), 0
    partials = artifacts.counts(job.config).units

    def num_counted() -> int:
        return sum(name.endswith(f"/{storage.MANIFEST}") for name in _names_below(here, partials))

    while lost < losses:
        target = num_counted() + choices.randint(2, 12)
        if not job.wait_until(lambda target=target: num_counted() >= target):
            break
        lost += job.lose_a_worker_of("CountUnits")
    job.to_the_end()
    counts = BackgroundCounts.load(artifacts.counts(job.config).open() / COUNTS_FILE)
    return _outcome(lost, differing(counts, BackgroundCounts.load(folder / "expected")))


def _while_pretraining(here: Site, folder: Path, choices: random.Random, losses: int) -> dict[str, Any]:
    """Lose machines during pretraining. Every second loss is announced, and a state is saved before
    it."""
    for pipeline in ("prepare_corpus", "pretrain"):
        _Job(here, folder, "whole", pipeline, *PRETRAIN).to_the_end()
    _copy_run(here, without=("checkpoint", "ray"))  # to another name: with --base-run it would find the checkpoint made
    job, lost, announced = _Job(here, folder, "lost", "pretrain", *PRETRAIN), 0, 0
    states = run_of(job.config).training_states("memory")

    def last_step() -> int:
        names = [name for name in _names_below(here, f"{states}/starts") if name.endswith(".json")]
        return max((json.loads(_get(here, f"{states}/starts/{name}"))["last_step"] for name in names), default=0)

    while lost < losses:
        target = last_step() + choices.randint(1, NUM_STEPS // 12)  # a loss is announced meanwhile
        if not job.wait_until(lambda target=target: last_step() >= target):
            break
        announce = lost % 2 == 1
        words = "a node is about to leave" if announce else ""
        if job.wait_until(lambda words=words: job.lose_a_worker_of("RayTrainWorker", first_say=words)):
            lost, announced = lost + 1, announced + announce
    job.to_the_end()
    made = [artifacts.checkpoint(smoke(here.storage, "--run-name", name), "memory") for name in ("whole", "lost")]
    whole, found = (each.manifest() for each in made)
    made[1].open()
    differences = sum(found.files.get(name) != file for name, file in whole.files.items())
    details = {"announced": announced, "nodes_at_once": job.most_nodes, "goodput": found.details["goodput"]}
    return _outcome(lost, differences + (job.most_nodes < 2), **details)


def _while_sweeping(here: Site, folder: Path, choices: random.Random, losses: int) -> dict[str, Any]:
    _Job(here, folder, "whole", "pareto_sweep", *SWEEP).to_the_end()
    _copy_run(here, without=("trials", "ray", "frontier", "report"))
    job, lost = _Job(here, folder, "lost", "pareto_sweep", *SWEEP), 0
    trials = run_of(job.config).trials
    number = len(_names_below(here, f"{here.storage}/whole/trials"))
    for target in sorted(choices.sample(range(number - 1), losses)):
        if not job.wait_until(lambda target=target: len(_names_below(here, trials)) >= target):
            break
        if job.wait_until(lambda: job.lose_a_worker_of("ResourceTrainable")):
            lost += 1
    job.to_the_end()
    whole, found = (without_times(_get(here, f"{here.storage}/{name}/frontier.json")) for name in ("whole", "lost"))
    return _outcome(lost, int(whole != found) + abs(len(_names_below(here, trials)) - number), trials=number)


def _outcome(lost: int, differences: int, **details: Any) -> dict[str, Any]:
    return {"tries": lost, "survived": 0 if differences else lost, "differences": differences, "details": details}


def _seen_from_outside(here: Site) -> dict[str, Any]:
    """Answers of the servers to a client with credentials and to one without."""
    client = MlflowClient(here.mlflow.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {
        "tracked_runs": len(client.search_runs(experiments, max_results=1000)),
        "ray_without_token": here.cluster.ask("/api/jobs/", token="")[0],
        "ray_with_another_token": here.cluster.ask("/api/jobs/", token="0" * 64)[0],
        "mlflow_without_password": answer_of(f"{here.mlflow.uri}/api/2.0/mlflow/experiments/search?max_results=1")[0],
    }


def row(what: str, *, losses: int, seconds: float) -> Row:
    return Row(
        name=f"node_loss_{what}",
        bar=f"{losses} nodes lost, the undisturbed result",
        tries=losses,
        run=lambda seed, small: lose(what, losses=1 if small else losses, seed=seed),
        seconds=seconds,
        small_seconds=0,
        cannot_run=cannot_run,
    )


ROWS = [
    row("count", losses=3, seconds=240),
    row("pretrain", losses=4, seconds=600),
    row("sweep", losses=3, seconds=500),
]
