"""The Triton kernels compute the right results (`triton_cases.py`), and compile for GPUs to the
intended code."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed; it is needed on GPUs only")

ROOT = Path(__file__).parents[3]
TYPES = {
    "values": "*bf16",
    "output": "*bf16",
    "slots": "*i64",
    "lookups": "*i64",
    "row_slots": "*i64",
    "addresses": "*i64",
    "starts": "*i32",
    "row_of_chunk": "*i32",
    "candidate_ranks": "*i32",
    **dict.fromkeys(("grad_output", "weights", "rows", "partial_rows", "through_weights"), "*fp32"),
    **dict.fromkeys(("first_moments", "second_moments", "sub_scores", "scores"), "*fp32"),
    **dict.fromkeys(("gradient_scale", "first_rate", "second_decay", "second_rate"), "fp32"),
    **dict.fromkeys(("step_size", "root_correction", "epsilon"), "fp32"),
}
"""Types of the kernels' arguments, which have the same names in all kernels; any other argument is
an int32."""
KERNELS = {
    "_read_kernel": {"ROWS": 8, "COLUMNS": 1024},
    "_sum_lookups_kernel": {"WEIGHT_GRADIENT": True, "CHUNK": 128, "LOOKUPS": 2, "COLUMNS": 1024},
    "_add_partial_rows_kernel": {"CHUNK": 128, "PARTS": 32, "COLUMNS": 64},
    "_weight_gradient_kernel": {"ROWS": 8, "COLUMNS": 1024},
    "_merge_kernel": {"ALIGNMENT": 16, "COLUMNS": 1024},
    "_adam_kernel": {"COLUMNS": 1024},
    "_search_kernel": {"RANKS": 8, "HALF_KEYS": 256, "CANDIDATES": 32},
}
ONES = dict.fromkeys(("num_slots", "num_reads", "value_dim", "COLUMNS"), 1)
SMALLEST = {
    "_read_kernel": {"ROWS": 8, **ONES},
    "_sum_lookups_kernel": {"WEIGHT_GRADIENT": True, "CHUNK": 128, "LOOKUPS": 2, **ONES},
    "_add_partial_rows_kernel": {"CHUNK": 128, "PARTS": 32, "COLUMNS": 64, "value_dim": 1},
    "_weight_gradient_kernel": {"ROWS": 8, **ONES},
    "_merge_kernel": {"ALIGNMENT": 4, **ONES},
    "_adam_kernel": ONES,
    "_search_kernel": {
        **dict.fromkeys(("RANKS", "HALF_KEYS", "CANDIDATES"), 2),
        **dict.fromkeys(("num_heads", "num_half_keys", "top_k", "num_candidates"), 1),
    },
}
"""Triton makes a size of 1 a constant of the kernel, which does not support all operations of a
number."""
NOT_INTERPRETED = pytest.mark.skipif(
    bool(os.environ.get("TRITON_INTERPRET")), reason="TRITON_INTERPRET is set, and nothing is compiled"
)


@pytest.mark.parametrize("name", ["triton_launch", "triton_lookup_sums", "triton_read", "triton_rows", "triton_search"])
def test_no_constant_of_a_kernel_is_nan(name):
    """A GPU's launcher compares the constants of a compiled kernel with the current ones, and would
    always refuse a NaN; the interpreter does not compare."""
    constants = [
        value.value
        for value in vars(importlib.import_module(f"memlm.model.kernels.{name}")).values()
        if isinstance(value, triton.language.constexpr)
    ]
    assert all(constant == constant for constant in constants)


@pytest.mark.parametrize(
    "interpreted",
    [
        pytest.param(True, id="interpreted", marks=pytest.mark.slow),
        pytest.param(
            False, id="gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
        ),
    ],
)
def test_the_cases_pass(interpreted):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpreted:
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/model/kernels/triton_cases.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def all_kernels():
    """All kernels by name, from every file."""
    files = (ROOT / "memlm" / "model" / "kernels").glob("triton_*.py")
    modules = [importlib.import_module(f"memlm.model.kernels.{file.stem}") for file in files]
    return {name: value for module in modules for name, value in vars(module).items() if name.endswith("_kernel")}


def compiled(name, constants, capability, table_type="bf16"):
    """The kernel compiled as the wrappers launch it on contiguous tensors with sizes divisible by
    16, without a GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = all_kernels()[name]
    signature, values, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.arg_names):
        is_one = parameter.endswith(("column_stride", "read_stride", "half_key_stride", "slots_stride"))
        if is_one or parameter in constants:
            signature[parameter], values[(place,)] = "constexpr", 1 if is_one else constants[parameter]
            continue
        signature[parameter] = TYPES.get(parameter, "i32").replace("bf16", table_type)
        if signature[parameter] != "fp32" and parameter not in ("num_rows", "num_lookups"):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})


@NOT_INTERPRETED
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("name", "table_type"),
    [(name, "bf16") for name in KERNELS] + [(name, "fp16") for name in ("_read_kernel", "_adam_kernel")],
)
def test_kernels_compile(name, table_type, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assembly = compiled(name, KERNELS[name], capability, table_type).asm["ptx"]
    assert "st.global" in assembly
    # Every sum has one owner.
    assert "atom." not in assembly and "red.global" not in assembly
    # Each thread loads 16 bytes of a row at a time, and 16-bit rows are rounded to nearest.
    if name != "_search_kernel":
        assert "ld.global.v4.b32" in assembly or "ld.global.v2.b64" in assembly
    if name in ("_read_kernel", "_adam_kernel"):
        assert f"cvt.rn.{table_type.replace('fp', 'f')}" in assembly


@NOT_INTERPRETED
@pytest.mark.parametrize("name", SMALLEST)
def test_kernels_compile_for_the_smallest_sizes(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert "st.global" in compiled(name, SMALLEST[name], 90).asm["ptx"]


def test_every_kernel_is_compiled_by_these_tests():
    assert set(all_kernels()) == set(KERNELS) == set(SMALLEST)
