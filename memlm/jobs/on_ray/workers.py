"""Tasks and workers on Ray: the resources that each asks for, its first calls, and its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypedDict

from memlm.config import ClusterConfig
from memlm.jobs.on_ray.console import quiet

if TYPE_CHECKING:
    import torch


class TaskResources(TypedDict):
    """Arguments of `ray.remote(...).options` and of Ray Data's `map_batches`."""

    num_cpus: int
    num_gpus: int


def task_resources(cluster: ClusterConfig) -> TaskResources:
    """Resources of a task that runs a model: one GPU, else one CPU.

    A task on a GPU asks for no CPU, so that nodes with fewer CPUs than GPUs use all their GPUs.
    """
    return {"num_cpus": 0, "num_gpus": 1} if cluster.use_gpu else {"num_cpus": 1, "num_gpus": 0}


def worker_resources(cluster: ClusterConfig) -> dict[str, float]:
    """Resources of a pretraining worker, by Ray's names."""
    return {"CPU": 1.0, "GPU": 1.0} if cluster.use_gpu else {"CPU": 1.0}


def enter_worker(cluster: ClusterConfig) -> None:
    """Quiet the libraries and set the number of threads: the first call in every task and worker
    that runs a model."""
    import torch  # only a worker should wait for this

    quiet()
    torch.set_num_threads(cluster.threads_per_worker)


def device_of(cluster: ClusterConfig) -> "torch.device":
    """Device of a task that runs a model."""
    import torch

    return torch.device("cuda" if cluster.use_gpu else "cpu")


class WorkerError(Exception):
    """Error that travels from a worker to the driver: Ray Data would add advice of its own to the
    message of another exception."""

    def __init__(self, cause: Exception, *notes: str) -> None:
        super().__init__(cause, *notes)
        self.cause = cause


@contextmanager
def user_errors_as_raised() -> Iterator[None]:
    """Report errors that the user can mend to the driver as they were raised; goes around code that
    Ray Data calls in a worker."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise WorkerError(error) from error
