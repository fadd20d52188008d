"""Requests for more workers than the cluster has room for: refused at once with the arithmetic, or
waiting for nodes that can still start."""

import math
import re
import time

import pytest

from memlm.config import ClusterConfig, Config
from memlm.jobs.on_ray import resources
from memlm.jobs.on_ray.resources import NodeKind, Request, most_workers, requests_of, require_resources, shortage
from memlm.run import RunError
from memlm.training.config import PretrainingConfig
from tests.jobs.running import refused, run_command, smoke

GPU_WORKERS = Request(field="cluster.num_workers", workers=12, each={"CPU": 1.0, "GPU": 1.0})
FULL, NO_CPUS, NO_GPUS = {"CPU": 96.0, "GPU": 8.0}, {"CPU": 2.0, "GPU": 8.0}, {"CPU": 96.0, "memory": 1e9}


ANY_NUMBER = PretrainingConfig(batch_blocks=60, micro_batch_blocks=1)
"""Batch that any number of workers up to six divides."""


def config(**cluster) -> Config:
    return Config(recipe="test", pretraining=ANY_NUMBER, cluster=ClusterConfig(**cluster))


def test_the_resources_that_a_config_asks_for():
    assert requests_of(config()) == [Request(field="cluster.num_workers", workers=1, each={"CPU": 1.0})]
    gpus = config(num_workers=4, use_gpu=True, num_trials_at_once=3)
    assert requests_of(gpus) == [
        Request(field="cluster.num_workers", workers=4, each={"CPU": 1.0, "GPU": 1.0}),
        Request(field="cluster.num_trials_at_once", workers=3, each={"GPU": 1.0}),
    ]


@pytest.mark.parametrize(
    "nodes, taken",
    [([FULL], 8), ([NO_CPUS], 2), ([NO_GPUS], 0), ([FULL, NO_CPUS, NO_GPUS], 10), ([FULL, FULL], None), ([], 0)],
)
def test_a_worker_needs_all_its_resources_on_one_node(nodes, taken):
    """By its sums the fourth cluster would have room for 20, but its GPUs are on nodes without
    CPUs."""
    said = shortage(GPU_WORKERS, nodes)
    if taken is None:
        assert said == ""
    else:
        assert f"cluster.num_workers = 12 needs 12 x (1 CPU and 1 GPU), and the cluster has room for {taken}: " in said


def test_the_arithmetic_names_nodes_of_a_kind_once():
    said = shortage(GPU_WORKERS, [NO_CPUS, NO_CPUS, NO_GPUS])
    assert said.endswith(
        "2 nodes with 2 CPU and 8 GPU have room for 2 each, 1 node with 96 CPU and 0 GPU has room for 0"
    )


def test_limits_of_the_autoscaler():
    kinds = [NodeKind(resources=FULL, max_nodes=2), NodeKind(resources=NO_GPUS, max_nodes=math.inf)]
    assert most_workers(GPU_WORKERS, kinds) == 16
    assert most_workers(GPU_WORKERS, [NodeKind(resources=NO_CPUS, max_nodes=math.inf)]) == math.inf
    joined = {"CPU": 7.0, "GPU": 8.0}  # started by hand, not by the autoscaler
    assert most_workers(GPU_WORKERS, kinds, [dict(kind.resources) for kind in kinds]) == 16
    assert most_workers(GPU_WORKERS, kinds, [joined]) == 16 + GPU_WORKERS.fitting(joined)


class Cluster:
    """Cluster that gains a node each time it is asked, with the kinds that its autoscaler may
    start."""

    def __init__(self, monkeypatch, *, nodes=(), joining=(), kinds=()):
        self.nodes, self.joining, self.said, self.requests = list(nodes), list(joining), [], []
        monkeypatch.setattr(resources, "nodes_now", self.look)
        monkeypatch.setattr(resources, "kinds_that_may_start", lambda: list(kinds))
        monkeypatch.setattr(resources, "request_resources", lambda bundles: self.requests.append(bundles))

    def look(self):
        found = list(self.nodes)
        self.nodes += [self.joining.pop(0)] if self.joining else []
        return found


TWO = {"CPU": 2.0}


def test_a_cluster_that_is_too_small_is_refused_at_once(monkeypatch):
    cluster = Cluster(monkeypatch, nodes=[TWO, TWO])
    began = time.monotonic()
    with pytest.raises(
        RunError,
        match=r"needs 5 x \(1 CPU\), and the cluster has room for 4: 2 nodes with 2 CPU have room for 2 each; lower",
    ):
        require_resources(config(num_workers=5), cluster.said.append)
    assert time.monotonic() - began < 1 and not cluster.said and not cluster.requests


def test_requests_beyond_the_autoscalers_limits_are_refused_at_once(monkeypatch):
    cluster = Cluster(monkeypatch, nodes=[TWO], kinds=[NodeKind(resources=TWO, max_nodes=2)])
    with pytest.raises(
        RunError, match="with all nodes that the autoscaler may start it has room for 4; .* max_workers"
    ):
        require_resources(config(num_workers=5), cluster.said.append)
    assert not cluster.requests


def test_nodes_that_the_autoscaler_may_start_are_requested_and_awaited(monkeypatch):
    cluster = Cluster(monkeypatch, nodes=[TWO], joining=[TWO, TWO], kinds=[NodeKind(resources=TWO, max_nodes=3)])
    require_resources(config(num_workers=4), cluster.said.append)
    assert cluster.requests == [[{"CPU": 1.0}] * 4, []]
    assert "waiting up to 900 s for nodes that the autoscaler starts" in cluster.said[0]


def test_nodes_are_requested_repeatedly_during_the_wait(monkeypatch):
    """The cluster keeps only the latest request, and other programs make requests too."""
    monkeypatch.setattr(resources, "REQUEST_SECONDS", 0.5)
    cluster = Cluster(monkeypatch, nodes=[TWO], joining=[{}, {}, {}, TWO], kinds=[NodeKind(resources=TWO, max_nodes=3)])
    require_resources(config(num_workers=4), cluster.said.append)
    assert cluster.requests[:-1] == [[{"CPU": 1.0}] * 4] * (len(cluster.requests) - 1)
    assert len(cluster.requests) >= 3 and cluster.requests[-1] == []


def test_the_configured_wait_ends_with_the_arithmetic(monkeypatch):
    cluster = Cluster(monkeypatch, nodes=[TWO])
    began = time.monotonic()
    with pytest.raises(
        RunError, match="the cluster has room for 2: 1 node with 2 CPU has room for 2, after 1 s of waiting"
    ):
        require_resources(config(num_workers=4, wait_seconds=1), cluster.said.append)
    assert 1 <= time.monotonic() - began < 5 and len(cluster.said) == 1


SEVERAL_NODES = """
import time
import ray
from ray.cluster_utils import Cluster
from memlm.jobs.on_ray.resources import kinds_that_may_start, require_resources
from memlm.config import ClusterConfig, Config
from memlm.run import RunError
from memlm.training.config import PretrainingConfig


def asking(workers):
    pretraining = PretrainingConfig(batch_blocks=6, micro_batch_blocks=1)
    return Config(recipe="t", pretraining=pretraining, cluster=ClusterConfig(num_workers=workers, use_gpu=True))


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 2, "include_dashboard": False})
cluster.add_node(num_cpus=2, num_gpus=1)
ray.init(address=cluster.address, log_to_driver=False)
assert kinds_that_may_start() == []
require_resources(asking(2), print)
began = time.monotonic()
try:
    require_resources(asking(3), print)
except RunError as error:
    print("REFUSED", f"{time.monotonic() - began:.1f}", error)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_placement_on_two_nodes_counts():
    """Cluster with three CPUs and three GPUs, but room for only two workers that need one of
    each."""
    ended = run_command("python", "-c", SEVERAL_NODES)
    assert ended.code == 0, ended.err
    (seconds, said) = re.search(r"REFUSED (\S+) (.*)", ended.out).groups()
    assert float(seconds) < 10
    assert "needs 3 x (1 CPU and 1 GPU), and the cluster has room for 2" in said
    assert "1 node with 1 CPU and 2 GPU has room for 1" in said and "1 node with 2 CPU and 1 GPU has room for 1" in said


ON_DRIVER_NODE_THE_DRIVER = """
import ray
from ray.cluster_utils import Cluster
from memlm.jobs.on_ray.actors import on_driver_node


class Helper:
    def where(self):
        return ray.get_runtime_context().get_node_id()


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
helpers = [on_driver_node(Helper, f"helper{number}").remote() for number in range(4)]
nodes = set(ray.get([helper.where.remote() for helper in helpers]))
print("ON_DRIVER_NODE", nodes == {ray.get_runtime_context().get_node_id()})
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_drivers_actors_are_on_its_node():
    """Without a rule, Ray would place actors that need no CPU anywhere, and the job would end with
    a lost node."""
    ended = run_command("python", "-c", ON_DRIVER_NODE_THE_DRIVER)
    assert "ON_DRIVER_NODE True" in ended.out, ended.err


@pytest.mark.ray
def test_a_pipeline_is_refused_with_the_arithmetic(tmp_path, capfd, cluster):
    """Request for GPUs on a machine without any."""
    from memlm.jobs import prepare_corpus

    options = ["--cluster.use-gpu", "True", "--tracking", "off"]
    line = refused(capfd, _connects_anew(prepare_corpus.run), smoke(tmp_path, *options))
    assert (
        "cluster.num_workers = 1 needs 1 x (1 CPU and 1 GPU), and the cluster has room for 0" in line
        and "lower" in line
    )


def _connects_anew(job):
    """Uses the session's Ray in place of one that the pipeline would start."""

    def run(config):
        require_resources(config, print)
        job(config)

    return run
