"""Comparison of the workers that a config asks for with those that the cluster can run, before any
work: Ray itself would wait without a message.

A worker needs all its CPUs and GPUs on one node, so the check counts how many workers fit on each
node; the sums over the cluster do not matter.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import ray._private.state
from ray.autoscaler.sdk import request_resources

from memlm.config import Config
from memlm.jobs.on_ray.workers import task_resources, worker_resources
from memlm.run import RunError

START_SECONDS = 900
"""Longest wait for nodes that the autoscaler can start."""
REQUEST_SECONDS = 3
"""Interval between repetitions of the request: Ray Data's coordinator, which outlives its job,
overwrites all requests with its own."""
Resources = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Workers that a setting asks for, each with these resources on one node."""

    field: str
    workers: int
    each: Resources

    def fitting(self, node: Resources) -> int:
        """Number of workers that fit on one empty node."""
        return int(min(node.get(name, 0.0) // amount for name, amount in self.each.items()))

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.each.items())
        return f"{self.field} = {self.workers} needs {self.workers} x ({each})"


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """Kind of node that the autoscaler may start."""

    resources: Resources
    max_nodes: float
    """Infinite if there is no limit."""


def requests_of(config: Config) -> list[Request]:
    """Requests for which the config gives a number. Other work takes the free resources, but at
    least one worker."""
    cluster = config.cluster
    task = task_resources(cluster)
    of_trial = {
        name: float(number) for name, number in (("CPU", task["num_cpus"]), ("GPU", task["num_gpus"])) if number
    }
    requests = [
        Request(
            field="cluster.num_workers",
            workers=cluster.num_workers,
            each=worker_resources(cluster),
        )
    ]
    if cluster.num_trials_at_once:
        requests.append(Request(field="cluster.num_trials_at_once", workers=cluster.num_trials_at_once, each=of_trial))
    return requests


def shortage(request: Request, nodes: Sequence[Resources]) -> str:
    """Explanation, with the arithmetic, of why these nodes are too few; empty if they suffice."""
    fitting = [request.fitting(node) for node in nodes]
    if sum(fitting) >= request.workers:
        return ""
    kinds: dict[tuple[str, int], int] = {}
    for node, workers in zip(nodes, fitting, strict=True):
        has = " and ".join(f"{node.get(name, 0.0):g} {name}" for name in request.each)
        kinds[has, workers] = kinds.get((has, workers), 0) + 1
    parts = [
        f"{count} node{'s' if count > 1 else ''} with {has} {'have' if count > 1 else 'has'} room for {workers}{' each' if count > 1 else ''}"
        for (has, workers), count in kinds.items()
    ]
    return f"{request}, and the cluster has room for {sum(fitting)}: {', '.join(parts) or 'it has no node'}"


def most_workers(request: Request, kinds: Sequence[NodeKind], nodes: Sequence[Resources] = ()) -> float:
    """Number of workers on all nodes that the autoscaler may start, plus the nodes that it did not
    start."""
    started = sum(kind.max_nodes * request.fitting(kind.resources) for kind in kinds if request.fitting(kind.resources))
    others = [node for node in nodes if not any(_is_of(node, kind) for kind in kinds)]
    return started + sum(request.fitting(node) for node in others)


def _is_of(node: Resources, kind: NodeKind) -> bool:
    return all(node.get(name, 0) == kind.resources.get(name, 0) for name in ("CPU", "GPU"))


@contextmanager
def report_shortage(config: Config, say: Callable[[str], None], *, every_seconds: float = 60.0) -> Iterator[None]:
    """Report every minute, while the block runs, if the cluster has lost so many nodes that too few
    are left."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_seconds):
            for request in requests_of(config):
                if lacking := shortage(request, nodes_now()):
                    say(f"{lacking}; waiting for more nodes")

    threading.Thread(target=watch, name="shortage", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def require_resources(config: Config, say: Callable[[str], None]) -> None:
    """Raise RunError with the arithmetic and the remedy if the cluster has too few resources and
    cannot grow enough.

    Waits, with a message, only for nodes that the autoscaler may start, or for
    cluster.wait_seconds.
    """
    require_nodes(requests_of(config), wait_seconds=config.cluster.wait_seconds, say=say)


def require_nodes(wanted: Sequence[Request], *, wait_seconds: int, say: Callable[[str], None]) -> None:
    """Like `require_resources`, for work without a config."""
    for request in wanted:
        lacking = shortage(request, nodes_now())
        if lacking:
            _wait(request, lacking, wait_seconds=wait_seconds, say=say)


def _wait(request: Request, lacking: str, *, wait_seconds: int, say: Callable[[str], None]) -> None:
    kinds = kinds_that_may_start()
    remedy = f"lower {request.field}, or start more nodes, or nodes that have what a worker needs"
    most = most_workers(request, kinds, nodes_now())
    if kinds and most < request.workers:
        raise RunError(
            f"{lacking}; with all nodes that the autoscaler may start it has room for {most:g}; "
            f"{remedy}, or raise the autoscaler's max_workers"
        )
    seconds = max(wait_seconds, START_SECONDS if kinds else 0)
    if not seconds:
        raise RunError(f"{lacking}; {remedy} (if nodes are still to join: --cluster.wait-seconds)")
    bundles = [dict(request.each)] * request.workers if kinds else []
    if bundles:
        request_resources(bundles=bundles)
    began = said = requested = time.monotonic()
    say(f"{lacking}; waiting up to {seconds} s for nodes{' that the autoscaler starts' if kinds else ''}")
    while lacking := shortage(request, nodes_now()):
        now = time.monotonic()
        if bundles and now - requested >= REQUEST_SECONDS:
            request_resources(bundles=bundles)
            requested = now
        if now - began >= seconds:
            raise RunError(f"{lacking}, after {seconds} s of waiting; {remedy}")
        if now - said >= 15:
            say(f"{lacking}; {now - began:.0f} of {seconds} s waited")
            said = now
        time.sleep(1)
    if bundles:
        request_resources(bundles=[])  # from here on the work itself makes the requests


def nodes_now() -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def kinds_that_may_start() -> list[NodeKind]:
    """Kinds of nodes in the autoscaler's configuration; empty without an autoscaler, or with one
    that does not report it."""
    reported = ray._private.state.state.get_cluster_config()
    groups = reported.node_group_configs if reported else ()
    return [
        NodeKind(resources=dict(group.resources), max_nodes=math.inf if group.max_count < 0 else group.max_count)
        for group in groups
        if group.max_count
    ]
