"""Doctor: checks whether a recipe can run here, one line for each check, with the remedy. Checks
delete everything that they write, except for an empty experiment on a tracking server."""

import importlib.util
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from memlm import storage
from memlm.config import IN_JOB, Config
from memlm.free_memory import available_memory
from memlm.jobs.on_ray.checks import (
    Check,
    compilers,
    credentials,
    packages,
    probe_storage,
    probe_tracking,
    python,
    ray_authentication,
)
from memlm.preflight.cost.machines import MACHINES
from memlm.preflight.cost.stages import Assumptions, Plan, make_plan
from memlm.run import RunError
from memlm.units import format_size

if TYPE_CHECKING:
    from memlm.jobs.on_ray.resources import NodeKind, Resources


def examine(config: Config) -> Iterator[Check]:
    """Run the checks one by one, quick ones first."""
    yield python()
    yield from packages()
    yield ray_authentication()
    yield credentials(config)
    yield compilers()
    plan = make_plan(
        config, MACHINES["h100" if config.cluster.use_gpu else "cpu"], config.cluster.num_workers, Assumptions(), {}
    )
    yield memory(config, plan)
    yield disk(config, plan)
    yield probe_storage(config.storage)
    yield probe_tracking(config)
    yield gpus(config)
    yield from resources(config)


def memory(config: Config, plan: Plan) -> Check:
    """Check that pretraining fits into this machine's memory."""
    free = available_memory()
    if config.cluster.use_gpu or _on_a_cluster():
        return Check(
            name="memory", found=f"{format_size(free)} free here; the work runs on the cluster's nodes or on GPUs"
        )
    workers, each = config.cluster.num_workers, sum(plan.memory.memory().values())
    arithmetic = f"pretraining needs {workers} x {format_size(each)}, and {format_size(free)} are free"
    if workers * each <= free:
        return Check(name="memory", found=arithmetic)
    remedy = "Lower model.memory.num_half_keys or pretraining.micro_batch_blocks, or use a larger machine (memlm plan lists what needs memory)"
    return Check(name="memory", state="fail", found=arithmetic, remedy=remedy)


def disk(config: Config, plan: Plan) -> Check:
    """Check the disk for the files of a run or, with S3, for the copies that a node keeps."""
    lines = plan.storage_lines()
    needed = sum(value for name, value in lines.items() if name != "corpus shards, read")
    remote = storage.is_remote(config.storage)
    cache = Path(os.environ.get("MEMLM_CACHE") or Path.home() / ".cache").expanduser()
    place = cache if remote else Path(config.storage)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"the run needs about {format_size(needed)}, and {place} has {format_size(free)} free"
    if needed <= free:
        return Check(name="disk", found=found)
    remedy = "Free some space, or choose a larger disk" + (" by MEMLM_CACHE" if remote else " by --storage")
    return Check(name="disk", state="warn" if remote else "fail", found=found, remedy=remedy)


def gpus(config: Config) -> Check:
    import torch  # slow, so the checks before this one do not wait for it

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    found = f"{len(names)} here{': ' if names else ''}{', '.join(sorted(set(names)))}"
    if not config.cluster.use_gpu:
        return Check(name="gpus", found=f"{found}; cluster.use_gpu is off")
    if not names and not _on_a_cluster():
        built = "with" if torch.version.cuda else "without"
        remedy = "Leave cluster.use_gpu off, or install a driver and a build of torch with CUDA"
        return Check(name="gpus", state="fail", found=f"{found}, torch is built {built} CUDA", remedy=remedy)
    if names and importlib.util.find_spec("triton") is None:
        remedy = "pip install triton==3.7.0"
        return Check(name="gpus", state="warn", found=f"{found}; no Triton, so plain torch runs, slower", remedy=remedy)
    return Check(name="gpus", found=found)


def resources(config: Config) -> Iterator[Check]:
    """Check that the cluster has room for the workers that the config asks for."""
    from memlm.jobs.on_ray.cluster import logical_cpus
    from memlm.jobs.on_ray.resources import most_workers, requests_of, shortage

    of_jobs = (os.environ.get("RAY_ADDRESS") or "").lower().startswith(("http://", "https://"))
    if _on_a_cluster():
        try:
            nodes, kinds = (_nodes_by_dashboard(), []) if of_jobs else _nodes_by_joining()
        except RunError as error:
            found, _, remedy = str(error).partition(". ")
            yield Check(name="resources", state="fail", found=found, remedy=remedy)
            return
    else:
        import torch

        nodes, kinds = [{"CPU": float(logical_cpus(config)), "GPU": float(torch.cuda.device_count())}], []
    for request in requests_of(config):
        lacking = shortage(request, nodes)
        if not lacking:
            most = sum(request.fitting(node) for node in nodes)
            yield Check(name="resources", found=f"{request}, and {len(nodes)} node(s) have room for {most}")
        elif most_workers(request, kinds, nodes) >= request.workers:
            yield Check(name="resources", found=f"{lacking}; the autoscaler may start the rest")
        elif of_jobs:
            remedy = f"Lower {request.field}, start more nodes, or rely on the autoscaler, whose limits the dashboard does not show"
            yield Check(name="resources", state="warn", found=lacking, remedy=remedy)
        else:
            remedy = f"Lower {request.field}, or start more nodes"
            yield Check(name="resources", state="fail", found=lacking, remedy=remedy)


def _nodes_by_joining() -> "tuple[list[Resources], list[NodeKind]]":
    """Nodes of the cluster, and the kinds of nodes that its autoscaler may start."""
    import ray

    from memlm.jobs.on_ray.cluster import joining, no_answer
    from memlm.jobs.on_ray.resources import kinds_that_may_start, nodes_now

    try:
        _require_listener(os.environ.get("RAY_ADDRESS", ""))
        with joining():
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ValueError, OSError) as error:  # RAY_ADDRESS is not a valid address
        raise error if isinstance(error, RunError) else no_answer(error) from error
    try:
        return nodes_now(), kinds_that_may_start()
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _nodes_by_dashboard() -> "list[Resources]":
    """Nodes of the cluster whose dashboard RAY_ADDRESS names, as for `ray job submit`."""
    from ray.util.state import list_nodes

    from memlm.jobs.on_ray.cluster import no_answer

    try:
        scheme, _, place = os.environ["RAY_ADDRESS"].partition("://")
        os.environ["RAY_ADDRESS"] = f"{scheme.lower()}://{place}"  # Ray takes another spelling for the name of a module
        nodes = list_nodes(filters=[("state", "=", "ALIVE")], timeout=10)
    except Exception as error:  # Ray, its HTTP client and its parser raise a dozen kinds
        raise no_answer(error) from error
    return [dict(node.resources_total) for node in nodes]


def _on_a_cluster() -> bool:
    return bool(os.environ.get(IN_JOB) or os.environ.get("RAY_ADDRESS"))
