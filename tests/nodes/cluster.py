"""A Ray cluster of several machines with token authentication, to whose head jobs are submitted."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.jobs.running import BIN, ROOT, environment
from tests.nodes.namespaces import GATEWAY, Network, Node
from tests.nodes.servers import MLflow, mlflow
from tests.support.faults import FaultyProxy, client_environment, faulty_s3, make_bucket

DASHBOARD = "http://127.0.0.1:8265"
"""Address of the dashboard on the head alone, which a user reaches by a forwarded port."""
SLOW_MACHINE = {"RAY_raylet_start_wait_time_s": "180"}
HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}
"""Settings by which a lost node is noticed sooner than by default. The last one is how long Ray
waits for a machine that no longer acknowledges messages: by default 120 s, in which no trial is
placed anywhere if that machine was asked for room for one."""
START_SECONDS = 180.0


class Cluster:
    """A head that offers no CPU, and workers. `environment` takes the place of an instance's role
    and secrets."""

    def __init__(self, network: Network, folder: Path, variables: Mapping[str, str], *, worker_cpus: int) -> None:
        self.network, self.num_workers, self.worker_cpus = network, 0, worker_cpus
        self.token, token_file = secrets.token_hex(32), folder / "token"
        token_file.touch(0o600)
        token_file.write_text(self.token)
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}
        self.environment = environment(**variables, **auth, **HEALTH, **SLOW_MACHINE, RAY_USAGE_STATS_ENABLED="0")
        self.head = network.add_node("head")
        options = ["--head", "--port=6379", "--num-cpus=0", "--dashboard-host=127.0.0.1"]
        self._start(self.head, *options)

    def _start(self, node: Node, *options: str) -> None:
        command = [str(BIN / "ray"), "start", "--block", f"--node-ip-address={node.address}", *options]
        own = {"MEMLM_CACHE": str(node.folder / "cache")}
        node.start([*command, "--object-store-memory=200000000", "--disable-usage-stats"], {**self.environment, **own})

    def add_worker(self) -> Node:
        """Begin to start a worker; see `wait_for_workers`."""
        self.num_workers += 1
        node = self.network.add_node(f"worker{self.num_workers}")
        self._start(node, f"--address={self.head.address}:6379", f"--num-cpus={self.worker_cpus}")
        return node

    @property
    def workers(self) -> list[Node]:
        return [node for node in self.network.nodes if node is not self.head and node.is_up]

    def ray(self, *arguments: str) -> list[str]:
        """Run a command of Ray on the head."""
        return self.head.command(str(BIN / "ray"), *arguments)

    def wait_for_workers(self) -> None:
        """Wait until all running workers have joined. Raises RuntimeError if they do not."""
        deadline = time.monotonic() + START_SECONDS
        wanted = {node.address for node in self.workers}
        while time.monotonic() < deadline:
            if wanted <= self.alive().keys():
                return
            time.sleep(0.5)
        logs = "\n".join((node.folder / "log").read_text()[-2000:] for node in self.network.nodes)
        raise RuntimeError(f"not all of {sorted(wanted)} joined within {START_SECONDS:.0f} s:\n{logs}")

    def alive(self) -> dict[str, str]:
        """Addresses and ids of the nodes that the head believes to be alive; none while it does not
        answer."""
        code, answer = self.ask("/api/v0/nodes?limit=1000&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE")
        nodes = json.loads(answer)["data"]["result"]["result"] if code == 200 else []
        return {node["node_ip"]: node["node_id"] for node in nodes}

    def announce_loss(self, node: Node, *, seconds: int = 120) -> None:
        """Announce, as for a spot instance, that the node will be gone in `seconds`."""
        options = [f"--node-id={self.alive()[node.address]}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
        options += ["--reason-message=it is taken back", f"--deadline-remaining-seconds={seconds}"]
        command = self.ray("drain-node", f"--address={self.head.address}:6379", *options)
        subprocess.run(command, check=True, capture_output=True, env=self.environment)

    def ask(self, path: str, *, token: str | None = None) -> tuple[int, str]:
        """Status and body of the dashboard's answer to a request from the head; status 0 if there
        is none."""
        asked = "import sys; from tests.nodes.servers import answer_of; print(*answer_of(*sys.argv[1:]), sep='\\n')"
        authorization = f"Bearer {self.token if token is None else token}"
        done = subprocess.run(
            self.head.command(sys.executable, "-c", asked, f"{DASHBOARD}{path}", authorization),
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        code, _, body = done.stdout.partition("\n")
        return int(code or 0), body

    def submit(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Run `ray job submit -- python ARGUMENTS`, which ends with the job's status."""
        command = self.ray("job", "submit", f"--address={DASHBOARD}", "--working-dir=.", "--", "python", *arguments)
        with log.open("ab") as output:
            return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=self.environment)


@dataclass(frozen=True, kw_only=True)
class Site:
    cluster: Cluster
    s3: FaultyProxy
    bucket: str
    mlflow: MLflow

    @property
    def storage(self) -> str:
        return f"{self.bucket}/runs"

    @property
    def options(self) -> list[str]:
        """Storage and tracking addresses of the jobs."""
        return ["--storage", self.storage, "--tracking", self.mlflow.uri]


@contextmanager
def site(folder: Path, database: str, *, num_workers: int, worker_cpus: int, seed: int) -> Iterator[Site]:
    """Servers, a head and workers, all running. To be called within namespaces of its own."""
    with ExitStack() as stack:
        network = stack.enter_context(Network(folder))
        proxy = stack.enter_context(faulty_s3(seed, GATEWAY))
        tracking = stack.enter_context(mlflow(folder / "mlflow", database))
        variables = {**client_environment(proxy), **tracking.environment}
        os.environ.update(variables)  # for this process, which reads what the jobs made
        cluster = Cluster(network, folder, variables, worker_cpus=worker_cpus)
        for _ in range(num_workers):
            cluster.add_worker()
        cluster.wait_for_workers()
        yield Site(cluster=cluster, s3=proxy, bucket=make_bucket(proxy), mlflow=tracking)
