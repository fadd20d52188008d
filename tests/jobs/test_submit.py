"""Pipelines as submitted jobs, on a cluster with token authentication."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from memlm import storage
from memlm.kinds import CHECKPOINT_KIND
from tests.jobs.running import BIN, ROOT, Ended, environment, run_command, the_error_line, uploaded

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("submit")]


@dataclass(frozen=True, kw_only=True)
class Head:
    address: str
    gcs: str
    token: str
    token_path: Path

    def submit(self, *arguments: str) -> Ended:
        command = [
            str(BIN / "ray"),
            "job",
            "submit",
            "--address",
            self.address,
            "--working-dir",
            ".",
            "--",
            "python",
            *arguments,
        ]
        return run_command(*command, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(self.token_path))


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def ask(url: str, *, token: str = "", body: dict | None = None) -> int:
    """The HTTP status."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def wait_for(head: Head, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if ask(f"{head.address}/api/jobs/", token=head.token) == 200:
                return
        except OSError:
            pass  # not up yet
        time.sleep(0.5)
    pytest.fail(f"the cluster does not answer:\n{log.read_text()}")


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    # Names of Unix sockets are limited, and pytest's folders have long paths.
    session = Path(tempfile.mkdtemp(prefix="memlm-ray-"))
    gcs, dashboard, client, agent, agent_grpc, environments, metrics = free_ports(7)
    token = secrets.token_hex(32)
    (folder / "token").write_text(token)
    os.chmod(folder / "token", 0o600)
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": agent_grpc,
        "runtime-env-agent-port": environments,
        "metrics-export-port": metrics,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": session,
        "num-cpus": 4,
        "object-store-memory": 300_000_000,
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    found = Head(
        address=f"http://127.0.0.1:{dashboard}", gcs=f"127.0.0.1:{gcs}", token=token, token_path=folder / "token"
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            cwd=folder,
            env=environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token")),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(found, process, folder / "log")
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):  # the code below ends it
            process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # only processes of this cluster
        process.wait()
        shutil.rmtree(session, ignore_errors=True)


def test_one_submitted_job_prepares_and_another_pretrains(head, tmp_path):
    options = ["smoke", "--storage", str(tmp_path), "--tracking", "off"]
    for pipeline, made in (("prepare_corpus", "corpus"), ("pretrain", "checkpoint-memory")):
        ended = head.submit(f"pipelines/{pipeline}.py", *options, "--pretraining.num-steps", "20")
        assert ended.code == 0, f"{ended.out}\n{ended.err}"
        assert "succeeded" in ended.out and "Traceback" not in ended.out + ended.err
        storage.open_artifact(str(tmp_path / "smoke" / made))
    manifest = storage.read_manifest(str(tmp_path / "smoke" / "checkpoint-memory"), CHECKPOINT_KIND)
    assert manifest.config["pretraining"]["num_steps"] == 20
    assert manifest.inputs["corpus"] == storage.read_manifest(str(tmp_path / "smoke" / "corpus")).digest
    assert "pretrain memory: 20/20" in ended.out  # lines from workers arrive


@pytest.mark.parametrize("options", [[], ["--storage", "here/runs"]], ids=["none", "relative"])
def test_a_job_without_an_absolute_storage_is_refused(head, options):
    ended = head.submit("pipelines/prepare_corpus.py", "smoke", *options)
    value = options[-1] if options else "runs"
    said = {line for line in (ended.out + ended.err).splitlines() if line.startswith("error: ")}
    assert ended.code != 0 and "Traceback" not in ended.out + ended.err
    assert said == {
        f"error: --storage is {value!r}; a submitted job needs an absolute path that all nodes share, or s3://bucket/prefix"
    }
    assert not (ROOT / "here").exists()


def test_a_job_without_the_token_is_refused(head, tmp_path):
    url, job = f"{head.address}/api/jobs/", {"entrypoint": f"touch {tmp_path}/done"}
    assert ask(url) == 401
    assert ask(url, body=job) == 401
    assert ask(url, token=secrets.token_hex(32), body=job) in (401, 403)
    assert ask(url, token=head.token) == 200
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_the_cluster_does_not_accept_is_one_error(head, tmp_path):
    """A job whose driver has the previous token."""
    (tmp_path / "token").write_text(secrets.token_hex(32))
    os.chmod(tmp_path / "token", 0o600)
    old = {"RAY_ADDRESS": head.gcs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    options = ("smoke", "--storage", str(tmp_path / "runs"), "--tracking", "off")
    ended = run_command(
        sys.executable, "pipelines/prepare_corpus.py", *options, timeout=120, RAY_JOB_CONFIG_JSON_ENV_VAR="{}", **old
    )
    assert "does not accept this token" in the_error_line(ended.code, ended.out, ended.err)


def test_the_upload_is_small():
    """Ray refuses working directories above 512 MiB; data and environments must stay out of
    them."""
    assert sum((ROOT / name).stat().st_size for name in uploaded(ROOT)) < 10 * 2**20


@pytest.mark.parametrize("mode", ["", "disabled"])
def test_a_submission_without_its_token_is_refused_on_one_line(head, mode, tmp_path):
    settings = {"MEMLM_STORAGE": str(tmp_path), "MEMLM_TRACKING": "off", "RAY_ADDRESS": head.address}
    (tmp_path / "token").write_text(secrets.token_hex(32))
    (tmp_path / "token").chmod(0o600)
    settings |= {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), **({"RAY_AUTH_MODE": mode} if mode else {})}
    ended = run_command(sys.executable, "infra/jobs/submit.py", "prepare_corpus", "smoke", **settings)
    assert "RAY_AUTH_MODE=token" in the_error_line(ended.code, ended.out, ended.err)


@pytest.mark.parametrize("spelled", ["http", "HTTP"])
def test_doctor_asks_the_dashboard_that_takes_jobs(head, spelled, tmp_path):
    address = head.address.replace("http", spelled)
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token_path), "RAY_ADDRESS": address}
    options = ["smoke", "--storage", str(tmp_path / "runs"), "--tracking", "off"]
    fits = run_command(str(BIN / "memlm"), "doctor", *options, **told)
    assert "ok    resources: cluster.num_workers = 1 needs 1 x (1 CPU), and 1 node(s) have room for 4" in fits.out, (
        fits.err
    )
    workers = ["--cluster.num-workers", "16", "--pretraining.micro-batch-blocks", "1"]
    large = run_command(str(BIN / "memlm"), "doctor", *options, *workers, **told)
    assert "warn  resources: cluster.num_workers = 16 needs 16 x (1 CPU), and the cluster has room for 4" in large.out
    wrong = run_command(str(BIN / "memlm"), "doctor", *options, **told | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    assert (
        wrong.code == 1 and "fail  resources: the cluster does not answer, or does not accept this token" in wrong.out
    )
    assert "Traceback" not in fits.err + large.err + wrong.err
