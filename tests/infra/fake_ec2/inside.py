"""Events in the fake region, within namespaces of its own: the head boots, jobs arrive, machines
are lost, and strangers try to connect.

`main` is called by tests/nodes/apart.py. Times are seconds; what differs from the undisturbed
run is counted, not explained.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import ray

from memlm import artifacts, storage
from memlm.kinds import COUNTS_FILE
from memlm.slots.counts import BackgroundCounts
from tests.chaos.smoke_run import differing
from tests.infra.fake_ec2.ask import status_of
from tests.infra.fake_ec2.hypervisor import Hypervisor, Machine, metadata_of
from tests.infra.fake_ec2.region import Applied, Region
from tests.jobs.running import ROOT, artifacts_in, smoke
from tests.nodes.namespaces import GATEWAY, Network
from tests.support.faults import client_environment, faulty_s3

DASHBOARD = "http://127.0.0.1:8265"
START_SECONDS, JOB_SECONDS, IDLE_SECONDS = 240.0, 600.0, 180.0
PUBLIC = {"/", "/favicon.ico", "/api/authentication_mode", "/api/authenticate", "/api/gcs_healthz"}
"""Routes of the dashboard that are open: the pages that a browser needs before it has a token, and
health."""
AT_NOTICE = "a node is about to leave"
"""Message of a pretraining that has saved a state because of a notice."""
OF_AGENTS = ("/api/job_agent/", "/api/healthz", "/api/local_raylet_healthz")


class Site:
    def __init__(self, arguments: dict[str, Any], hypervisor: Hypervisor, folder: Path) -> None:
        self.token, self.storage = arguments["token"], arguments["storage"]
        self.hypervisor, self.folder = hypervisor, folder

    @property
    def head(self) -> Machine:
        head = self.hypervisor.head
        assert head is not None, self.logs()
        return head

    def logs(self) -> str:
        """Logs of the machines: output of their boot scripts and of the autoscaler."""
        found = [*self.folder.glob("i-*/log"), *self.folder.glob("i-*/ray/session_2*/logs/monitor.[elo]*")]
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-1500:]}" for log in found)

    def ask(self, machine: Machine, asked: list[tuple[str, str, dict[str, str]]]) -> list[int]:
        """HTTP statuses of requests from a machine."""
        command = machine.node.command(sys.executable, "-m", "tests.infra.fake_ec2.ask")
        done = subprocess.run(command, input=json.dumps(asked), text=True, capture_output=True, cwd=ROOT)
        return list(json.loads(done.stdout)) if done.returncode == 0 else [0] * len(asked)

    @property
    def authorized(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> float:
        began = time.monotonic()
        while not condition():
            assert self.hypervisor.error is None, self.hypervisor.error
            assert time.monotonic() - began < seconds, f"{self.logs()}\nno {what} within {seconds:.0f} s"
            time.sleep(0.5)
        return round(time.monotonic() - began, 1)

    def submit(self, log: Path, pipeline: str, *options: str) -> subprocess.Popen[bytes]:
        """Submit a job as a person does, through a forwarded port."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_ADDRESS": DASHBOARD,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "MEMLM_STORAGE": self.storage,
            "MEMLM_TRACKING": "off",
        }
        command = [sys.executable, "infra/jobs/submit.py", pipeline, "smoke", *options]
        with log.open("wb") as output:
            return subprocess.Popen(
                self.head.node.command(*command), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    folder = Path(arguments["folder"])
    with Network(folder) as network, faulty_s3(0, GATEWAY) as proxy:
        os.environ.update(client_environment(proxy))  # for this process, which reads what the jobs made
        region = Region(proxy.endpoint, Applied(arguments["applied"]))
        region.make(arguments["token_secret_name"], arguments["token"])
        for name in artifacts_in(folder / "undisturbed"):
            for run in ("smoke", "lost")[
                : 1 if name.startswith("checkpoint") else 2
            ]:  # a checkpoint is what `lost` makes
                _upload(folder / "undisturbed" / name, f"{arguments['storage']}/{run}/{name}")
        with Hypervisor(network, region, folder) as hypervisor, metadata_of(hypervisor):
            return _scenario(Site(arguments, hypervisor, folder), arguments, region)


def _scenario(site: Site, arguments: dict[str, Any], region: Region) -> dict[str, Any]:
    found: dict[str, Any] = {}
    region.start_head()
    found["head_up_seconds"] = site.wait("head", lambda: _answers(site), START_SECONDS)
    found["strangers"] = _strangers(site)
    for pipeline, options, process, noticed in (
        ("count_accesses", arguments["count_options"], "CountUnits", False),
        ("pretrain", arguments["pretrain_options"], "RayTrainWorker", True),
    ):
        found[pipeline] = _with_a_loss(site, pipeline, options, process, noticed=noticed)
    found["listeners"] = _listeners(site)
    found["idle_gone_seconds"] = site.wait("end of idle workers", lambda: not site.hypervisor.workers, IDLE_SECONDS)
    found["still_running"] = sum(i["State"]["Name"] == "running" for i in region.instances()) - 1
    found["instance_types"] = sorted({i["InstanceType"] for i in region.instances()})
    found["events"] = [f"{e.seconds} s: {e.what} {e.instance_id}" for e in site.hypervisor.events]
    return found


def _answers(site: Site) -> bool:
    head = site.hypervisor.head
    return head is not None and site.ask(head, [("GET", f"{DASHBOARD}/api/version", site.authorized)]) == [200]


def _with_a_loss(site: Site, pipeline: str, options: list[str], process: str, *, noticed: bool) -> dict[str, Any]:
    """Run a job that needs more than one machine, and lose one of them while it works, without
    warning or after a spot notice. The job's output goes to its log."""
    log, began = site.folder / f"{pipeline}.log", time.monotonic()
    config = smoke(site.storage, *options)
    before = len(site.hypervisor.machines)
    job = site.submit(log, pipeline, *options)

    def ended() -> bool:
        assert job.poll() is None, f"{site.logs()}\n{log.read_text()[-2500:]}\nthe job ended too early"
        return False

    def busy() -> list[Machine]:
        return [machine for machine in site.hypervisor.workers if machine.node.processes(process)]

    two = site.wait("two machines at work", lambda: ended() or len(busy()) >= 2, START_SECONDS)
    lost, launched = busy()[0], len(site.hypervisor.machines)
    if noticed:
        site.hypervisor.announce_loss(lost)
        what, heard = "a state saved at the notice", lambda: AT_NOTICE in log.read_text()
    else:
        what, heard = "progress", lambda: _counted(config) >= 3
    heard_after = site.wait(what, lambda: ended() or heard(), START_SECONDS)
    site.hypervisor.lose(lost)
    replaced = site.wait("replacement", lambda: ended() or len(site.hypervisor.machines) > launched, JOB_SECONDS)
    try:
        code = job.wait(JOB_SECONDS)
    except subprocess.TimeoutExpired:
        code = -1
    assert code == 0, f"{site.logs()}\n{log.read_text()[-2500:]}\nthe job ended with {code}"
    return {
        "two_at_work_seconds": two,
        "lost_after_seconds": heard_after,
        "replacement_seconds": replaced,
        "seconds": round(time.monotonic() - began, 1),
        "machines_launched": len(site.hypervisor.machines) - before,
        "differences": _differences(site, pipeline, config),
    }


def _counted(config: Any) -> int:
    return _manifests(artifacts.counts(config).units)


def _manifests(uri: str) -> int:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return sum(key.endswith(f"/{storage.MANIFEST}") for key in keys)


def _differences(site: Site, pipeline: str, config: Any) -> int:
    """Number of differences from the results of the same work when undisturbed."""
    undisturbed = site.folder / "expected"
    if pipeline == "count_accesses":
        counts = BackgroundCounts.load(artifacts.counts(config).open() / COUNTS_FILE)
        return differing(counts, BackgroundCounts.load(undisturbed / "counts" / COUNTS_FILE))
    checkpoint = artifacts.checkpoint(config, "memory")
    made, wanted = checkpoint.manifest(), storage.read_manifest(str(undisturbed / "checkpoint-memory"))
    checkpoint.open()
    return sum(made.files.get(name) != file for name, file in wanted.files.items())


def _upload(artifact: Path, uri: str) -> None:
    made = storage.read_manifest(str(artifact))
    with storage.write_artifact(uri, kind=made.kind, config=made.config, inputs=made.inputs) as draft:
        shutil.copytree(artifact, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        draft.details.update(made.details)
    assert storage.read_manifest(uri).digest == made.digest


# Who must not come in
# ------------------------------------------------------------------------------------------


def routes() -> Iterator[tuple[str, str]]:
    """All routes that Ray's dashboard declares in its source."""
    declared = re.compile(r'@(?:\w+\.)*(?:routes|\w*RouteTable)\.(get|post|put|delete|patch)\(\s*"([^"]+)"')
    for file in (Path(ray.__file__).parent / "dashboard").rglob("*.py"):
        for method, path in declared.findall(file.read_text()):
            if path not in PUBLIC and not path.startswith(OF_AGENTS):
                yield method.upper(), re.sub(r"\{\w+\}", "x", path)


def _strangers(site: Site) -> dict[str, Any]:
    head, declared = site.head, sorted(set(routes()))
    wrong = {"Authorization": f"Bearer {'0' * len(site.token)}"}
    without = site.ask(head, [(method, DASHBOARD + path, {}) for method, path in declared])
    with_wrong = site.ask(head, [(method, DASHBOARD + path, wrong) for method, path in declared])
    let_in = [
        f"{method} {path}: {status}"
        for (method, path), *statuses in zip(declared, without, with_wrong, strict=True)
        for status in statuses
        if status not in (401, 403)
    ]
    metadata = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"

    mode = subprocess.run(head.node.command("stat", "-c", "%a %U", "/run/ray/token"), capture_output=True, text=True)

    return {
        "routes": len(declared),
        "let_in": let_in,
        "with_token": site.ask(head, [("GET", f"{DASHBOARD}/api/jobs/", site.authorized)])[0],
        "metadata_without_token": site.ask(head, [("GET", metadata, {})])[0],
        "token_file": mode.stdout.strip(),
        "token_in_environments": _in_environments(head, site.token),
        "gcs_without_token": _connects(f"{head.node.address}:6379"),
        "client_without_token": _connects(f"ray://{head.node.address}:10001"),
    }


def _in_environments(machine: Machine, token: str) -> int:
    """Processes of a machine that have the token in their environment or command line."""
    found = 0
    for process in machine.node.processes(""):
        try:
            texts = [Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("environ", "cmdline")]
        except OSError:  # it ended meanwhile
            continue
        found += any(token.encode() in text for text in texts)
    return found


def _connects(address: str) -> str:
    """Answer of the cluster to a process of another machine that connects without the token."""
    script = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('let in')"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", script]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd="/tmp")
    except subprocess.TimeoutExpired:
        return "no answer"
    return "let in" if "let in" in done.stdout else "refused"


def _listeners(site: Site) -> dict[str, Any]:
    """Sockets that other machines can reach, and the answers that a stranger gets there: metrics at
    most."""
    found: dict[str, list[int]] = {"reachable": [], "metrics": [], "talkative": []}
    for machine in site.hypervisor.up:
        for port in sorted(_open_ports(machine)):
            found["reachable"].append(port)
            url = f"http://{machine.node.address}:{port}/"
            if 200 <= status_of("GET", url, {}) < 400:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    is_metrics = answer.read(7) == b"# HELP "
                found["metrics" if is_metrics else "talkative"].append(port)
    return found


def _open_ports(machine: Machine) -> set[int]:
    """Sockets that listen, and not on loopback alone."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{machine.node.pid}/net/{name}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, port = local.rpartition(":")
            if state == "0A" and address not in ("0100007F", "00000000000000000000000001000000"):
                found.add(int(port, 16))
    return found
