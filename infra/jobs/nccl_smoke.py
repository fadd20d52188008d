"""Check that all workers of a cluster sum correctly and fast enough, before a pretraining that is
paid for by the hour.

On CPUs, to try it:

    python infra/jobs/nccl_smoke.py --num-workers 4 --backend gloo --min-gigabytes-per-second 0.01

On GPUs:

    export RAY_AUTH_MODE=token
    ray job submit --working-dir . -- python infra/jobs/nccl_smoke.py --num-workers 64

A Ray Train job of the same shape as pretraining: each worker is a rank with a GPU of its own.
All-reduces of growing size are checked number by number and timed by the slowest rank. The bus
bandwidth, 2 (n - 1) / n x bytes / seconds, is the one of nccl-tests: it does not depend on the
number of ranks, so it can be compared with the hardware. Ends with 1 if a sum is wrong or the
bandwidth too low.
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer

from memlm import storage
from memlm.jobs.on_ray.cluster import joining
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.local_ray import turn_off_uv_hook
from memlm.jobs.on_ray.ray_files import ray_storage
from memlm.jobs.on_ray.resources import Request, require_nodes
from memlm.preflight.cost.machines import GPUS_PER_NODE, MACHINES
from memlm.run import RunError

SIZES = tuple(1 << power for power in (20, 24, 28, 30))
"""Bytes of an all-reduce. The last is about as large as one of a step of the 1 B model."""
CPU_SIZES = tuple(1 << power for power in (16, 20, 24))
WARM_UP, REPEATS = 3, 10
LEAST_SHARE = 0.5
"""Required share of the links' bandwidth by their data sheet. A ring without EFA, or with a bad
cable, stays far below it."""
UNKNOWN_LEAST = 0.5
"""GB/s required of a GPU that memlm/preflight/cost/machines.py does not know."""
START_SECONDS, STARTS_IN_VAIN = 300, 2
"""Limits on the start of the workers, in seconds and in vain attempts; Ray Train has none."""
SILENCE_SECONDS = 600
"""Limit after which ranks that do not answer each other have failed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One size of all-reduce."""

    bytes: int
    seconds: float
    gigabytes_per_second: float
    """Bus bandwidth."""
    num_wrong: int
    """Number of wrong elements of the sum over all ranks."""


def bus_bandwidth(num_bytes: int, seconds: float, num_ranks: int) -> float:
    """Bytes per second on each rank's link in a ring, where every byte except its own share goes
    round twice."""
    return 2 * (num_ranks - 1) / num_ranks * num_bytes / seconds


def least_bandwidth(gpu_name: str, num_workers: int) -> float:
    """GB/s below which something is wrong with this hardware. The rings of a node's GPUs share its
    network, so all of it counts."""
    known = {
        "H100": "h100",
        "H200": "h200",
        "B200": "b200",
        "A100-SXM4-80GB": "a100-80",
        "A100-SXM4-40GB": "a100-40",
        "L40S": "l40s",
        "A10G": "a10g",
    }
    machine = next((MACHINES[key] for mark, key in known.items() if mark in gpu_name), None)
    if machine is None:
        return UNKNOWN_LEAST
    link = machine.inside_node
    if num_workers > GPUS_PER_NODE:
        link = min(link, GPUS_PER_NODE * machine.between_nodes)
    return LEAST_SHARE * link / 1e9


def measure(num_bytes: int, device: torch.device) -> Measured:
    """All-reduce, which all ranks must call. Rank r contributes r + 1 everywhere, so that a rank
    left out or counted twice changes the sum."""
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    ours = torch.full((num_bytes // 4,), float(rank + 1), dtype=torch.float32, device=device)
    total = ours.clone()
    dist.all_reduce(total)
    wrong = (total != num_ranks * (num_ranks + 1) / 2).sum().to(torch.float32).reshape(1)
    dist.all_reduce(wrong)

    buffer = torch.zeros_like(ours)  # zeros stay zeros, however often they are summed
    for _ in range(WARM_UP):
        dist.all_reduce(buffer)
    _finish(device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        dist.all_reduce(buffer)
    _finish(device)
    seconds = torch.tensor([(time.perf_counter() - began) / REPEATS], dtype=torch.float64, device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return Measured(
        bytes=num_bytes,
        seconds=seconds.item(),
        gigabytes_per_second=bus_bandwidth(num_bytes, seconds.item(), num_ranks) / 1e9,
        num_wrong=int(wrong.item()),
    )


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier()


def _worker(task: dict[str, Any]) -> dict[str, Any]:
    device = ray.train.torch.get_device()
    measured = [asdict(measure(size, device)) for size in task["sizes"]]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    nodes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    return {"measured": measured, "gpu": name, "num_nodes": len(set(nodes))}


def run_config(folder: str) -> ray.train.RunConfig:
    """Storage of Ray's own files, where the cluster's roles may write and delete them."""
    return ray.train.RunConfig(
        name=f"nccl-smoke-{time.time_ns()}",
        failure_config=ray.train.FailureConfig(controller_failure_limit=STARTS_IN_VAIN),
        **(ray_storage(storage.join(folder, "nccl-smoke", "ray")) if folder else {}),
    )


def start(num_workers: int, each: dict[str, float]) -> None:
    """Raise RunError if the cluster neither has nor can start the nodes for this many workers."""
    turn_off_uv_hook()
    with joining():
        ray.init(runtime_env={"env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_SECONDS)}})
    require_nodes([Request(field="--num-workers", workers=num_workers, each=each)], wait_seconds=0, say=say)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-workers", type=int, required=True)
    parser.add_argument("--backend", choices=("nccl", "gloo"), default="nccl", help="gloo: on CPUs")
    parser.add_argument(
        "--min-gigabytes-per-second",
        type=float,
        help="of bus bandwidth at the largest size; by default half of what the links can do by their data sheet",
    )
    parser.add_argument(
        "--storage", default="", help="where Ray Train keeps its state: s3://bucket/prefix, or a folder of all nodes"
    )
    asked = parser.parse_args(arguments)
    if asked.num_workers < 2:
        parser.error(f"--num-workers is {asked.num_workers}; one worker has nobody to add up with, so give 2 or more")
    if asked.backend == "gloo" and asked.min_gigabytes_per_second is None:
        parser.error("--min-gigabytes-per-second is missing; what CPUs can do depends on their network, so say it")

    on_gpu = asked.backend == "nccl"
    each = {"CPU": 1.0, "GPU": 1.0} if on_gpu else {"CPU": 1.0}
    ours = run_config(asked.storage)
    try:
        start(asked.num_workers, each)
        result = TorchTrainer(
            _worker,
            train_loop_config={"sizes": SIZES if on_gpu else CPU_SIZES},
            torch_config=TorchConfig(backend=asked.backend, timeout_s=SILENCE_SECONDS),
            scaling_config=ray.train.ScalingConfig(
                num_workers=asked.num_workers,
                use_gpu=on_gpu,
                resources_per_worker=each,
            ),
            run_config=ours,
        ).fit()
    except (RunError, ray.train.ControllerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ray.train.WorkerGroupError as error:
        first = next(iter(error.worker_failures.values()))
        print(f"error: the workers cannot talk to each other: {first}", file=sys.stderr)
        return 1
    if asked.storage:
        storage.delete(storage.join(asked.storage, "nccl-smoke", "ray", str(ours.name)))  # which nobody reads
    found: Any = result.return_value  # of rank 0
    measured = [Measured(**one) for one in found["measured"]]
    least = asked.min_gigabytes_per_second
    if least is None:
        least = least_bandwidth(found["gpu"], asked.num_workers)
    print(f"{asked.num_workers} x {found['gpu']} on {found['num_nodes']} node(s), {asked.backend}")
    for one in measured:
        print(
            f"{one.bytes / 1e6:10.1f} MB  {one.seconds * 1e3:10.3f} ms  {one.gigabytes_per_second:8.3f} GB/s  {one.num_wrong} wrong"
        )
    return verdict(measured, least)


def verdict(measured: list[Measured], least: float) -> int:
    """Print the problems. Returns the exit code."""
    wrong = sum(each.num_wrong for each in measured)
    largest = measured[-1]
    if wrong:
        print(f"error: {wrong} elements of the sums are wrong; do not train on these nodes", file=sys.stderr)
        return 1
    if largest.gigabytes_per_second < least:
        print(
            f"error: the bus bandwidth is {largest.gigabytes_per_second:.3f} GB/s, below the {least:g} GB/s asked for; see NCCL's log "
            f"(NCCL_DEBUG=INFO) for whether it uses EFA and NVLink, or lower --min-gigabytes-per-second",
            file=sys.stderr,
        )
        return 1
    print(f"ok: sums are right, and {largest.gigabytes_per_second:.3f} GB/s is at least {least:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
