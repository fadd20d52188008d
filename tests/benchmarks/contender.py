"""One side of a row, alone in its process: it is built from its arguments, timed on request, and
gives its outputs.

Run as `python -m tests.benchmarks.contender MODULE:CLASS ARGUMENTS FOLDER`. The other end is
`measure.py`: a request is a word on a line, an answer is JSON on a line, tensors go through
safetensors files in FOLDER. What libraries print goes to stderr.
"""

import importlib
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor


class Clock:
    """Time inside `with clock:`, summed over the entries of one repeat. On a CPU it is the
    computing time of the process, so that other processes do not count; on a GPU, and where `wall`
    is set, it is the elapsed time.

    On a CPU it is the time that the process computed, so that another process on the machine
    does not count; on a GPU, and where `wall` is asked for, it is the time that passed.
    """

    def __init__(self, device: torch.device, *, wall: bool) -> None:
        self.device = device
        self.wall = wall or device.type == "cuda"
        self.seconds = self.wall_seconds = 0.0
        self.aside: dict[str, float] = {}

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        computed, passed = self._now()
        self.wall_seconds += passed - self._began[1]
        self.seconds += passed - self._began[1] if self.wall else computed - self._began[0]

    @contextmanager
    def separately(self, name: str) -> Iterator[None]:
        """Time the block under this name, outside the sum."""
        began = self._now()
        yield
        place = 1 if self.wall else 0
        self.aside[name] = self.aside.get(name, 0.0) + self._now()[place] - began[place]

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time(), time.perf_counter()


class Contender(ABC):
    """An implementation to be timed, built once and warm after its first repeats. A subclass takes
    `device` and keyword arguments of plain JSON."""

    wall = False
    """Whether elapsed time counts, as for work in several processes."""

    @abstractmethod
    def repeat(self, clock: Clock) -> None:
        """Do the work once, with `with clock:` around the part that counts."""

    def outputs(self) -> dict[str, Tensor]:
        """Outputs to be compared with the other side's. Called before the first repeat, if at
        all."""
        return {}

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release resources that would outlive the process."""


def begin_group_of_one(device: torch.device) -> Callable[[], None]:
    """Begin a process group of one rank, unless the process has one. Returns what ends it again."""
    if dist.is_initialized():
        return lambda: None
    os.environ["LOCAL_RANK"] = "0"  # a variable of launchers that DeepSpeed asks for
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return dist.destroy_process_group


def resident_bytes(field: str) -> int:
    """Memory of the process in bytes: `VmRSS` now, or `VmHWM` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no field {field!r}; this system does not say what a process holds")


class _Memory:
    """Peak of memory since `begin`, above the level at that time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.began = 0

    def begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.began = torch.cuda.memory_allocated(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
            self.began = resident_bytes("VmRSS")

    def report(self) -> dict[str, int]:
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else resident_bytes("VmHWM")
        return {"peak_bytes": peak, "working_bytes": peak - self.began}


def serve(contender: Contender, memory: _Memory, device: torch.device, folder: Path, channel: Any) -> None:
    """Answer requests until the input ends."""
    for request in map(str.strip, sys.stdin):
        answer: dict[str, Any] = {}
        if request == "repeat":
            clock = Clock(device, wall=contender.wall)
            contender.repeat(clock)
            answer = {"seconds": clock.seconds, "wall_seconds": clock.wall_seconds, "aside": clock.aside}
        elif request == "outputs":
            path = folder / f"outputs-{os.getpid()}.safetensors"
            tensors = contender.outputs()
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
            del tensors
            memory.begin()  # memory of the comparison is not part of the work
            answer = {"path": str(path)}
        elif request == "memory":
            answer = memory.report()
        else:
            raise ValueError(f"request {request!r} is unknown; it must be repeat, outputs or memory")
        print(json.dumps(answer), file=channel, flush=True)


def main() -> None:
    # The real standard output is for answers alone; what a library prints must not end
    # up among them.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, arguments, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    device = torch.device(arguments.pop("device"))
    module, _, kind = name.partition(":")
    contender = getattr(importlib.import_module(f"tests.benchmarks.{module}"), kind)(device=device, **arguments)
    memory = _Memory(device)
    memory.begin()
    print(json.dumps({"ready": True}), file=channel, flush=True)
    try:
        serve(contender, memory, device, folder, channel)
    finally:
        contender.close()


if __name__ == "__main__":
    main()
