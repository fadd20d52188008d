"""The C++ kernels, compiled once per machine and version of torch, then loaded. Where that is not
possible, plain torch runs instead.

The compiler writes into a temporary folder, under a lock that is released when its process ends.
The finished library is moved into place in one step, together with its digest. A library that does
not match its digest is built again.
"""

import fcntl
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import cpp_extension

from memlm.model.kernels import reference
from memlm.model.kernels.interface import AdamStep, RowGradient

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-std=c++20"]
MAX_SLOTS = 1 << 32
"""Slots are numbered in 32 bits inside; larger tables use plain torch."""
FALLBACK = "the memory layer runs on plain torch, slower"
log = logging.getLogger(__name__)

INSTALL_TOOLS = "install g++ and ninja (pip install ninja), or set CXX to a compiler"


def missing_tools() -> list[str]:
    """Names of the compiler and the builder that are not installed."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    with _own_scripts_on_path():
        return [tool for tool in (compiler, "ninja") if shutil.which(tool) is None]


@functools.cache
def is_available() -> bool:
    """Whether the kernels are loaded. Compiles them if this machine has not done so yet, which
    takes about ten seconds."""
    library = _library()
    try:
        _require_own_folder(library.parent)
        if not _is_intact(library):
            if missing := missing_tools():
                log.warning("%s not found: %s; %s", " and ".join(missing), FALLBACK, INSTALL_TOOLS)
                return False
            _build(library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "error:" in line), lines[0])
        log.warning("the C++ kernels cannot be built or loaded (%s): %s", reason, FALLBACK)
        return False
    return True


def _library() -> Path:
    """Path whose name depends on everything that determines the library's content, including the
    processor's features, because machines may share a home folder."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), processor)
    named = [SOURCE.read_text(), *FLAGS, processor, torch.__version__, platform.python_version()]
    digest = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return Path(root) / "memlm" / f"kernels-{digest}.so"


def _require_own_folder(folder: Path) -> None:
    """Raise OSError for a folder in which somebody else could put a library for us to run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise OSError(
            f"{folder} belongs to another user or is writable by others; "
            "set TORCH_EXTENSIONS_DIR to a folder of your own, or remove the others' right to write"
        )


def _is_intact(library: Path) -> bool:
    """Whether the library is there and matches the digest of the one that was built."""
    digest = library.with_suffix(".sha256")
    if not (library.is_file() and digest.is_file()):
        return False
    return hashlib.sha256(library.read_bytes()).hexdigest() == digest.read_text()


def _build(library: Path) -> None:
    lock = os.open(library.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    with open(lock, "rb"):  # without following a link or waiting at a pipe
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
        if _is_intact(library):
            return
        log.info("compiling the C++ kernels, once for this machine: ten seconds")
        with (
            tempfile.TemporaryDirectory(dir=library.parent) as scratch,
            warnings.catch_warnings(),
            _own_scripts_on_path(),
        ):
            warnings.simplefilter("ignore")
            cpp_extension.load(
                name="memlm_kernels",
                sources=[str(SOURCE)],
                extra_cflags=FLAGS,
                extra_ldflags=["-fopenmp"],
                build_directory=scratch,
                is_python_module=False,
            )
            built = Path(scratch) / "memlm_kernels.so"
            with open(built, "rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.sha256(file.read()).hexdigest()
            library.with_suffix(".sha256").write_text(digest)
            os.replace(built, library)


@contextmanager
def _own_scripts_on_path() -> Iterator[None]:
    """Put the scripts of this Python's environment on PATH. The builder calls ninja by name, and
    it is not on PATH unless the environment is activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def search(
    sub_scores: Float[Tensor, "heads 2 tokens num_half_keys"], top_k: int
) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
    return torch.ops.memlm.search(sub_scores, top_k)


def search_backward(
    grad_scores: Float[Tensor, "tokens heads top_k"],
    slots: Int[Tensor, "tokens heads top_k"],
    queries: Float[Tensor, "tokens heads key_dim"],
    half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
) -> tuple[Float[Tensor, "tokens heads key_dim"], Float[Tensor, "heads 2 num_half_keys key_dim//2"]]:
    return torch.ops.memlm.search_backward(grad_scores, slots, queries, half_keys)


def read(
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
) -> Float[Tensor, "tokens value_dim"]:
    if values.dtype == torch.float32:
        return reference.read(values, slots, weights)
    return torch.ops.memlm.read(values, slots, weights)


def read_backward(
    grad_output: Float[Tensor, "tokens value_dim"],
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
    *,
    rows: bool,
    weight_gradient: bool,
) -> tuple[RowGradient | None, Float[Tensor, "tokens reads"] | None]:
    if len(values) > MAX_SLOTS:
        return reference.read_backward(grad_output, values, slots, weights, rows=rows, weight_gradient=weight_gradient)
    if not rows:
        through_weights = torch.ops.memlm.read_backward_of_weights(grad_output, values, slots)
        return None, through_weights if weight_gradient else None
    accessed, gradient, squares, through_weights = torch.ops.memlm.read_backward(
        grad_output, values, slots, weights, weight_gradient
    )
    return RowGradient(accessed, gradient, squares), through_weights if weight_gradient else None


def read_backward_of_rows(
    grad_output: Float[Tensor, "tokens value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
    row_slots: Int[Tensor, " rows"],
) -> Float[Tensor, "rows value_dim"]:
    return torch.ops.memlm.read_backward_of_rows(grad_output, slots, weights, row_slots)


def merge_rows(parts: list[RowGradient]) -> RowGradient:
    if len(parts) == 1:
        return parts[0]
    if any(len(part.slots) and int(part.slots[-1]) >= MAX_SLOTS for part in parts):
        return reference.merge_rows(parts)
    slots, rows = [part.slots.contiguous() for part in parts], [part.rows.contiguous() for part in parts]
    return RowGradient(*torch.ops.memlm.merge_rows(slots, rows))


def squared_norms(rows: Float[Tensor, "rows value_dim"]) -> Float[Tensor, " rows"]:
    return torch.ops.memlm.squared_norms(rows)


def count(slots: Int[Tensor, " accesses"]) -> tuple[Int[Tensor, " accessed"], Int[Tensor, " accessed"]]:
    if len(slots) and int(slots.max()) >= MAX_SLOTS:
        return reference.count(slots)
    return torch.ops.memlm.count(slots)


def second_moment(
    rows: Int[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
    starts: Int[Tensor, " bounds"],
    num_rows: int,
) -> Float[Tensor, "columns columns"]:
    return torch.ops.memlm.second_moment(rows, weights, starts, num_rows)


def lazy_adam_step(
    values: Float[Tensor, "num_slots value_dim"],
    first_moments: Float[Tensor, "num_slots value_dim"],
    second_moments: Float[Tensor, "num_slots value_dim"],
    gradient: RowGradient,
    step: AdamStep,
) -> None:
    torch.ops.memlm.lazy_adam_step(
        values,
        first_moments,
        second_moments,
        gradient.slots,
        gradient.rows,
        step.gradient_scale,
        step.beta1,
        step.beta2,
        step.learning_rate / (1 - step.beta1**step.number),
        (1 - step.beta2**step.number) ** 0.5,
        step.epsilon,
    )
