"""Tasks and workers on Ray: what each asks for, does first, and reports when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from memlm.config import ClusterConfig
from memlm.jobs.on_ray.console import quiet


class TaskResources(TypedDict):
    """Arguments of `ray.remote(...).options` and of Ray Data's `map_batches`."""

    num_cpus: int
    num_gpus: int


def task_resources(cluster: ClusterConfig) -> TaskResources:
    """Resources of a task that runs a model: one GPU, else one CPU.

    A task on a GPU asks for no CPU, so that nodes with fewer CPUs than GPUs use all their GPUs.
    """
    return {"num_cpus": 0, "num_gpus": 1} if cluster.use_gpu else {"num_cpus": 1, "num_gpus": 0}


def enter_worker(cluster: ClusterConfig) -> None:
    """Quiet the libraries and set the number of threads: the first call in every task and worker
    that runs a model."""
    import torch  # only a worker should wait for this

    quiet()
    torch.set_num_threads(cluster.threads_per_worker)


class WorkerError(Exception):
    """An error on its way from a worker to the driver, behind which Ray Data finds no message to
    write advice of its own into."""

    def __init__(self, cause: Exception, *notes: str) -> None:
        super().__init__(cause, *notes)
        self.cause = cause


@contextmanager
def user_errors_as_raised() -> Iterator[None]:
    """Around what Ray Data calls in a worker: the driver is told what the user can mend as it
    was raised."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise WorkerError(error) from error
