"""Rendezvous of the pretraining workers on one machine, through a private file.

By default torch opens a store that listens on every interface and asks for no token.
"""

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

LOOPBACK = "127.0.0.1"


def torch_config() -> TorchConfig:
    """Configuration of torch for the cluster that this process is connected to."""
    is_local = all(node["NodeManagerAddress"] == LOOPBACK for node in ray.nodes() if node["Alive"])
    return FileTorchConfig() if is_local else TorchConfig()


class FileTorchConfig(TorchConfig):
    """Ray Train's configuration of a process group that is formed through a file, without a
    server."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _FileBackend


class _FileBackend(_TorchBackend):
    folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        self._remove()  # left by a lost group
        self.folder = tempfile.mkdtemp(prefix="memlm-rendezvous-")  # private
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _join,
                    backend=backend_config.backend,
                    address=(Path(self.folder) / "store").as_uri(),
                    number=rank,
                    world_size=len(worker_group),
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_shutdown(worker_group, backend_config)
        self._remove()

    def _remove(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _join(*, backend: str, address: str, number: int, world_size: int, timeout_s: int) -> None:
    torch.distributed.init_process_group(
        backend, init_method=address, rank=number, world_size=world_size, timeout=timedelta(seconds=timeout_s)
    )
