"""Measurement of two contenders so that disturbances of the machine cancel out: each in a process
of its own, in turns, with medians.

A (warm-up) B (warm-up) A B A B ...: what slows the machine down for a while slows both. One
thread each, the same allocator settings.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from memlm.jobs.on_ray.cluster import WORKER_ENVIRONMENT

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **WORKER_ENVIRONMENT,
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "PYTHONUNBUFFERED": "1",
}
WARM_UP = 2
"""Repeats that are discarded: they fill caches, build lazily built parts and take memory from the
system."""
RESERVE_BYTES = 1 << 30
"""Memory that stays free for the rest of the machine when a contender says how much it needs."""


class ContenderError(ValueError):
    """A contender could not be built or run; its row says why and the others go on."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A contender by name, and what it is built from."""

    name: str
    """Name in the table."""
    contender: str
    """Class of the contender, as module:class below tests.benchmarks."""
    arguments: dict[str, Any] = field(default_factory=dict)
    differs: str = ""
    """Difference of its mathematics from ours; empty if it is the same."""
    only_compared: bool = False
    """Whether it is a reference, whose time is shown but which cannot be the row's peer."""
    needs_bytes: int = 0


class Process:
    """A contender in its process. As a context manager it ends the process on exit, also after an
    error."""

    def __init__(self, spec: Spec, folder: Path, *, timeout: float = 300) -> None:
        self.spec, self.folder, self.timeout = spec, folder, timeout
        _require_memory(spec)
        self.errors = (folder / f"{spec.contender.replace(':', '-')}-{time.monotonic_ns()}.log").open("w+")
        command = [sys.executable, "-m", "tests.benchmarks.contender", spec.contender, json.dumps(spec.arguments)]
        self.process = subprocess.Popen(
            [*command, str(folder)],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,
            start_new_session=True,  # so that processes that a contender starts end with it
        )

    def __enter__(self) -> "Process":
        try:
            self._answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, request: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{request}\n".encode())
        except BrokenPipeError:
            raise self._failure() from None
        return self._answer()

    def outputs(self) -> dict[str, Tensor]:
        path = Path(self.ask("outputs")["path"])
        tensors = load_file(path)
        path.unlink()
        return tensors

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], self.timeout)[0]:
            raise ContenderError(f"{self.spec.name}: no answer within {self.timeout:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise self._failure()
        return dict(json.loads(line))

    def _failure(self) -> ContenderError:
        code = self.process.wait()
        self.errors.seek(0)
        # The last line that is not indented begins the message of the error that ended it.
        lines = [line for line in self.errors.read().splitlines() if line[:1].strip()]
        return ContenderError(f"{self.spec.name}: {lines[-1] if lines else f'ended with status {code}'}")

    def _end(self) -> None:
        """End the process by closing its input; kill it if it hangs."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/meminfo has no field 'MemAvailable'; this system does not say how much memory is free")


def _require_memory(spec: Spec) -> None:
    needed = spec.needs_bytes + RESERVE_BYTES
    if spec.needs_bytes and spec.arguments.get("device") == "cpu" and available_bytes() < needed:
        raise ContenderError(
            f"{spec.name}: needs {spec.needs_bytes / 2**30:.1f} GiB and a reserve of {RESERVE_BYTES / 2**30:.0f}, and "
            f"{available_bytes() / 2**30:.1f} GiB are free; end other processes or use a machine with more memory"
        )


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of the repeats after warm-up, in order."""

    seconds: list[float]
    wall_seconds: list[float]
    aside: dict[str, float]
    """Medians of the separate timings by name."""

    @property
    def median(self) -> float:
        return median(self.seconds)

    @staticmethod
    def of(answers: Sequence[Mapping[str, Any]]) -> "Timing":
        return Timing(
            seconds=[answer["seconds"] for answer in answers],
            wall_seconds=[answer["wall_seconds"] for answer in answers],
            aside={name: median(answer["aside"][name] for answer in answers) for name in answers[0]["aside"]},
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a pair is timed: at least `fewest` repeats each, then until the seconds are over
    or there are `most`."""

    seconds: float = 8.0
    fewest: int = 3
    most: int = 25
    warm_up: int = WARM_UP


def in_turns(processes: Sequence[Process], budget: Budget, *, warm_up: int = WARM_UP) -> list[Timing]:
    """Repeat all in turns, each the same number of times."""
    for process in processes:
        for _ in range(warm_up):
            process.ask("repeat")
    answers: list[list[dict[str, Any]]] = [[] for _ in processes]
    began = time.monotonic()
    while len(answers[0]) < budget.fewest or (
        len(answers[0]) < budget.most and time.monotonic() - began < budget.seconds
    ):
        for kept, process in zip(answers, processes, strict=True):
            kept.append(process.ask("repeat"))
    return [Timing.of(kept) for kept in answers]


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Comparison of one peer with ours: times, memory and differences, or the reason why there are
    none."""

    peer: Spec
    ours: Timing | None = None
    theirs: Timing | None = None
    peak_bytes: tuple[int, int] = (0, 0)
    differences: list[str] = field(default_factory=list)
    compared: bool = False
    error: str = ""

    @property
    def ratio(self) -> float:
        """Their time over ours."""
        assert self.ours is not None and self.theirs is not None
        return self.theirs.median / self.ours.median


Check = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], list[str]]
"""Function that lists the differences between our outputs and a peer's, in sentences; nothing if
they agree."""


def pair(ours: Spec, peers: Sequence[Spec], folder: Path, *, check: Check | None, budget: Budget) -> list[Pairing]:
    """Compare ours with each peer in turn. Raises ContenderError if ours fails; a peer that fails
    gives a pairing with an error."""
    pairings = []
    with Process(ours, folder) as our_process:
        our_outputs = our_process.outputs() if check else {}
        for spec in peers:
            try:
                with Process(spec, folder) as their_process:
                    compared = check is not None and not spec.differs
                    differences = check(our_outputs, their_process.outputs()) if check and compared else []
                    our_timing, their_timing = in_turns([our_process, their_process], budget, warm_up=budget.warm_up)
                    peaks = [process.ask("memory")["peak_bytes"] for process in (our_process, their_process)]
            except ContenderError as error:
                if our_process.process.poll() is not None:
                    raise
                pairings.append(Pairing(peer=spec, error=str(error)))
                continue
            pairings.append(
                Pairing(
                    peer=spec,
                    ours=our_timing,
                    theirs=their_timing,
                    peak_bytes=(peaks[0], peaks[1]),
                    differences=differences,
                    compared=compared,
                )
            )
    return pairings


def far_apart(name: str, ours: Tensor, theirs: Tensor, *, tolerance: float = 1e-4, share: float = 0.0) -> list[str]:
    """A sentence if more than a share of the elements are further apart than the tolerance times
    the peer's root mean square."""
    if ours.shape != theirs.shape:
        return [f"{name} has shape {list(ours.shape)}, and the peer's {list(theirs.shape)}"]
    ours, theirs = ours.double(), theirs.double()
    scale = float(theirs.square().mean().sqrt())
    apart = (ours - theirs).abs()
    outside = float((~(apart <= tolerance * scale)).double().mean())
    if outside <= share:
        return []
    return [
        f"{name} differs from the peer's: {outside:.2%} of the elements by more than {tolerance:g} of the root mean square "
        f"({scale:.3g}), the largest by {float(apart.max()):.3g}"
    ]
