"""Can the cluster ever give the workers that are asked for? Answered by arithmetic before work,
where Ray would wait without a word.

A worker needs a node that has all of its CPUs and GPUs together, so what counts is how many
workers each node takes, not the sums.
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
from memlm.run import RunError

START_SECONDS = 900
"""Waited for nodes that the autoscaler says it can start."""
REQUEST_SECONDS = 3
"""The request is made again so often: Ray Data's coordinator, which outlives its job, overwrites
everybody's with its own."""
Resources = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """So many workers, of a setting, each with these resources on one node."""

    field: str
    workers: int
    each: Resources

    def fitting(self, node: Resources) -> int:
        """Workers that one empty node takes."""
        return int(min(node.get(name, 0.0) // amount for name, amount in self.each.items()))

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.each.items())
        return f"{self.field} = {self.workers} needs {self.workers} x ({each})"


@dataclass(frozen=True, kw_only=True)
class NodeKind:
    """What the autoscaler may start."""

    resources: Resources
    most: float
    """Nodes of it; infinite if it has no limit."""


def asked_of(config: Config) -> list[Asked]:
    """What the config asks by number. Work with no number given takes what there is, but at
    least one worker."""
    cluster = config.cluster
    at_once: Resources = {"GPU": 1.0} if cluster.use_gpu else {"CPU": 1.0}
    asked = [
        Asked(
            field="cluster.num_workers",
            workers=cluster.num_workers,
            each={"CPU": 1.0, "GPU": 1.0} if cluster.use_gpu else {"CPU": 1.0},
        )
    ]
    if cluster.num_trials_at_once:
        asked.append(Asked(field="cluster.num_trials_at_once", workers=cluster.num_trials_at_once, each=at_once))
    return asked


def shortage(asked: Asked, nodes: Sequence[Resources]) -> str:
    """Why these nodes cannot give it, with the arithmetic; empty if they can."""
    fitting = [asked.fitting(node) for node in nodes]
    if sum(fitting) >= asked.workers:
        return ""
    kinds: dict[tuple[str, int], int] = {}
    for node, workers in zip(nodes, fitting, strict=True):
        has = " and ".join(f"{node.get(name, 0.0):g} {name}" for name in asked.each)
        kinds[has, workers] = kinds.get((has, workers), 0) + 1
    parts = [
        f"{count} node{'s' if count > 1 else ''} with {has} take{'' if count > 1 else 's'} {workers}{' each' if count > 1 else ''}"
        for (has, workers), count in kinds.items()
    ]
    return f"{asked}, and the cluster takes {sum(fitting)}: {', '.join(parts) or 'it has no node'}"


def most_workers(asked: Asked, kinds: Sequence[NodeKind], nodes: Sequence[Resources] = ()) -> float:
    """That the autoscaler's limits allow, and beside it the nodes that it did not start."""
    started = sum(kind.most * asked.fitting(kind.resources) for kind in kinds if asked.fitting(kind.resources))
    others = [node for node in nodes if not any(_is_of(node, kind) for kind in kinds)]
    return started + sum(asked.fitting(node) for node in others)


def _is_of(node: Resources, kind: NodeKind) -> bool:
    return all(node.get(name, 0) == kind.resources.get(name, 0) for name in ("CPU", "GPU"))


@contextmanager
def report_shortage(config: Config, say: Callable[[str], None], *, every_seconds: float = 60.0) -> Iterator[None]:
    """Says, as long as it lasts, that the cluster has too few nodes left for what runs within."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_seconds):
            for asked in asked_of(config):
                if lacking := shortage(asked, nodes_now()):
                    say(f"{lacking}; it waits for more nodes")

    threading.Thread(target=watch, name="shortage", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def require_resources(config: Config, say: Callable[[str], None]) -> None:
    """Raises RunError with the arithmetic and the remedy if the cluster has too little, and will
    not grow enough.

    Waits, and says so, only for nodes that the autoscaler may start, or as long as
    cluster.wait_seconds says.
    """
    require_nodes(asked_of(config), wait_seconds=config.cluster.wait_seconds, say=say)


def require_nodes(wanted: Sequence[Asked], *, wait_seconds: int, say: Callable[[str], None]) -> None:
    """As `require_resources`, for work that has no config."""
    for asked in wanted:
        lacking = shortage(asked, nodes_now())
        if lacking:
            _wait(asked, lacking, wait_seconds=wait_seconds, say=say)


def _wait(asked: Asked, lacking: str, *, wait_seconds: int, say: Callable[[str], None]) -> None:
    kinds = kinds_that_may_start()
    remedy = f"lower {asked.field}, or start more nodes, or nodes that have what a worker needs"
    most = most_workers(asked, kinds, nodes_now())
    if kinds and most < asked.workers:
        raise RunError(
            f"{lacking}; with all nodes that the autoscaler may start it takes {most:g}; "
            f"{remedy}, or raise the autoscaler's max_workers"
        )
    seconds = max(wait_seconds, START_SECONDS if kinds else 0)
    if not seconds:
        raise RunError(f"{lacking}; {remedy} (where nodes are still to join: --cluster.wait-seconds)")
    request = [dict(asked.each)] * asked.workers if kinds else []
    if request:
        request_resources(bundles=request)
    began = said = requested = time.monotonic()
    say(f"{lacking}; waiting up to {seconds} s for nodes{' that the autoscaler starts' if kinds else ''}")
    while lacking := shortage(asked, nodes_now()):
        now = time.monotonic()
        if request and now - requested >= REQUEST_SECONDS:
            request_resources(bundles=request)
            requested = now
        if now - began >= seconds:
            raise RunError(f"{lacking}, after {seconds} s of waiting; {remedy}")
        if now - said >= 15:
            say(f"{lacking}; {now - began:.0f} of {seconds} s waited")
            said = now
        time.sleep(1)
    if request:
        request_resources(bundles=[])  # the work itself asks from here on


def nodes_now() -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def kinds_that_may_start() -> list[NodeKind]:
    """As the autoscaler tells them to Ray; none where there is no autoscaler, or one that does
    not tell."""
    told = ray._private.state.state.get_cluster_config()
    groups = told.node_group_configs if told else ()
    return [
        NodeKind(resources=dict(group.resources), most=math.inf if group.max_count < 0 else group.max_count)
        for group in groups
        if group.max_count
    ]
