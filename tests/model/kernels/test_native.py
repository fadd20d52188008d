"""The C++ kernels compared with plain definitions in fp64, and with plain torch to the bit where
sums are in the same order."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memlm.model.kernels import AdamStep, RowGradient, native, reference

needs_compiler = pytest.mark.skipif(not native.is_available(), reason="no C++ compiler builds the kernels here")
KERNELS = [pytest.param(reference, id="plain torch"), pytest.param(native, id="C++", marks=needs_compiler)]
every_kernel = pytest.mark.parametrize("kernels", KERNELS)
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Relative error of a result: half a unit in the last place. Sums are fp32."""
every_dtype = pytest.mark.parametrize("dtype", ROUNDING, ids=str)
SHAPES = [(9, 6, 20, 7), (1, 1, 1, 1), (5, 12, 3, 130), (40, 7, 50, 33), (64, 33, 1000, 24), (0, 4, 9, 5), (3, 0, 9, 5)]
every_shape = pytest.mark.parametrize(("tokens", "reads", "num_slots", "width"), SHAPES)


def random_read(tokens, reads, num_slots, width, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num_slots, width, generator=generator).to(dtype)
    slots = torch.randint(0, num_slots, (tokens, reads), generator=generator)
    weights = torch.randn(tokens, reads, generator=generator)
    return values, slots, weights, torch.randn(tokens, width, generator=generator)


def plain_gradients(values, slots, weights, grad_output):
    values, weights = values.double().requires_grad_(True), weights.double().requires_grad_(True)
    output = (values[slots] * weights[..., None]).sum(dim=1)
    return output.detach(), *torch.autograd.grad(output, [values, weights], grad_output.double())


# The search


def plain_search(sub_scores, top_k):
    """All pairs, sorted by their sum; of equal sums, the pair with the better first half comes
    first, then the one with the better second half."""
    heads, _, tokens, n = sub_scores.shape
    slots = torch.empty(tokens, heads, top_k, dtype=torch.int64)
    scores = torch.empty(tokens, heads, top_k)
    for head, token in itertools.product(range(heads), range(tokens)):
        left, right = (sub_scores[head, half, token].tolist() for half in (0, 1))
        order = [sorted(range(n), key=lambda key, half=half: (-half[key], key)) for half in (left, right)]
        sums = (sub_scores[head, 0, token][order[0]][:, None] + sub_scores[head, 1, token][order[1]]).flatten().tolist()
        best = sorted(range(n * n), key=lambda pair: (-sums[pair], pair))[:top_k]
        slots[token, head] = torch.tensor([order[0][pair // n] * n + order[1][pair % n] for pair in best])
        scores[token, head] = torch.tensor([sums[pair] for pair in best])
    return slots, scores


SEARCHES = [
    (1, 1), (5, 5), (7, 3), (8, 8), (13, 13), (33, 8), (31, 17), (64, 16), (70, 16), (129, 32), (192, 16), (256, 32),
    (260, 64), (300, 65), (1024, 32),
]  # fmt: skip


@every_kernel
@pytest.mark.parametrize(("n", "top_k"), SEARCHES)
def test_the_search_is_exact(kernels, n, top_k):
    sub_scores = torch.randn(2, 2, 3, n, generator=torch.Generator().manual_seed(n))
    slots, scores = kernels.search(sub_scores, top_k)
    expected_slots, expected_scores = (
        plain_search(sub_scores, top_k) if n < 300 else reference.search(sub_scores, top_k)
    )
    assert torch.equal(slots, expected_slots) and torch.equal(scores, expected_scores)


@every_kernel
@pytest.mark.parametrize(("n", "top_k"), [(9, 4), (70, 16), (192, 16), (256, 32)])
@pytest.mark.parametrize("num_levels", [1, 2, 5])
def test_ties_are_broken_consistently(kernels, n, top_k, num_levels):
    generator = torch.Generator().manual_seed(n)
    sub_scores = torch.randint(-num_levels + 1, num_levels, (1, 2, 4, n), generator=generator) * 0.5
    sub_scores[0, :, 1] = -sub_scores[0, :, 1]  # includes -0.0, which ties with 0.0
    assert torch.equal(kernels.search(sub_scores, top_k)[0], plain_search(sub_scores, top_k)[0])


@every_kernel
def test_searching_a_view_equals_searching_its_copy(kernels):
    sub_scores = torch.randn(70, 3, 2, 4).permute(3, 2, 1, 0)
    for found, expected in zip(kernels.search(sub_scores, 5), kernels.search(sub_scores.contiguous(), 5), strict=True):
        assert torch.equal(found, expected)


@needs_compiler
@pytest.mark.parametrize("n", [9, 64, 192, 1024])
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), float("-inf"), 3e38, -3e38])
def test_unusual_scores_are_searched_exactly(n, strange):
    sub_scores = torch.randn(1, 2, 6, n, generator=torch.Generator().manual_seed(n))
    for token in range(5):
        sub_scores[0, token % 2, token, :: 2 * token + 1] = strange
    for found, expected in zip(native.search(sub_scores, 9), reference.search(sub_scores, 9), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@every_kernel
def test_a_search_of_no_tokens_finds_nothing(kernels):
    slots, scores = kernels.search(torch.zeros(2, 2, 0, 8), 3)
    assert slots.shape == scores.shape == (0, 2, 3)


@every_kernel
@pytest.mark.parametrize(
    ("tokens", "heads", "n", "top_k", "width"), [(7, 2, 9, 4, 3), (30, 3, 40, 16, 33), (0, 2, 9, 4, 3)]
)
def test_the_gradient_of_the_search_follows_the_scores_found(kernels, tokens, heads, n, top_k, width):
    generator = torch.Generator().manual_seed(n)
    queries = torch.randn(tokens, heads, 2 * width, generator=generator)
    half_keys = torch.randn(heads, 2, n, width, generator=generator)
    grad_scores = torch.randn(tokens, heads, top_k, generator=generator)
    exact_queries, exact_keys = queries.double().requires_grad_(True), half_keys.double().requires_grad_(True)
    sub_scores = torch.einsum("thsd,hsnd->thsn", exact_queries.view(tokens, heads, 2, width), exact_keys)
    slots, _ = reference.search(sub_scores.detach().float().permute(1, 2, 0, 3), top_k)
    scores = sub_scores[:, :, 0].gather(2, slots // n) + sub_scores[:, :, 1].gather(2, slots % n)
    expected = torch.autograd.grad(scores, [exact_queries, exact_keys], grad_scores.double())
    found = kernels.search_backward(grad_scores, slots, queries, half_keys)
    for gradient, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-5)


# The weighted read


@every_kernel
@every_shape
@every_dtype
def test_the_read_and_its_gradients_equal_the_plain_ones(kernels, tokens, reads, num_slots, width, dtype):
    values, slots, weights, grad_output = random_read(tokens, reads, num_slots, width, dtype=dtype)
    output, grad_values, grad_weights = plain_gradients(values, slots, weights, grad_output)
    found = kernels.read(values, slots, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), output, rtol=ROUNDING[dtype] + 1e-5, atol=1e-5)
    gradient, through_weights = kernels.read_backward(
        grad_output, values, slots, weights, rows=True, weight_gradient=True
    )
    assert torch.equal(gradient.slots, slots.unique())
    torch.testing.assert_close(gradient.rows.double(), grad_values[gradient.slots], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(through_weights.double(), grad_weights, rtol=1e-5, atol=1e-5)


@every_kernel
@every_shape
def test_unrequested_gradients_are_not_computed_and_the_others_are_the_same(kernels, tokens, reads, num_slots, width):
    values, slots, weights, grad_output = random_read(tokens, reads, num_slots, width)
    both = kernels.read_backward(grad_output, values, slots, weights, rows=True, weight_gradient=True)
    rows, none = kernels.read_backward(grad_output, values, slots, weights, rows=True, weight_gradient=False)
    assert none is None
    torch.testing.assert_close(rows.rows, both[0].rows)
    none, alone = kernels.read_backward(grad_output, values, slots, weights, rows=False, weight_gradient=True)
    assert none is None
    torch.testing.assert_close(alone, both[1])


@every_kernel
@pytest.mark.parametrize("row_slots", [[], [0, 3, 19], [7], list(range(20)), [20, 21], [0, 21]])
def test_the_gradient_of_chosen_rows_is_the_dense_one_at_those_rows(kernels, row_slots):
    values, slots, weights, grad_output = random_read(30, 6, 20, 33)
    dense = torch.cat([plain_gradients(values, slots, weights, grad_output)[1], torch.zeros(2, 33)])
    rows = kernels.read_backward_of_rows(grad_output, slots, weights, torch.tensor(row_slots, dtype=torch.int64))
    torch.testing.assert_close(rows.double(), dense[row_slots], rtol=1e-5, atol=1e-5)


@needs_compiler
def test_views_are_read_like_their_copies():
    values, slots, weights, grad_output = random_read(12, 6, 40, 8)
    strided = [
        torch.stack([values] * 2, dim=1)[:, 1],
        slots.T.contiguous().T,
        torch.cat([weights] * 2, dim=1)[:, 6:],
        grad_output.T.contiguous().T,
    ]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.equal(native.read(*strided[:3]), native.read(values, slots, weights))
    found = native.read_backward(strided[3], *strided[:3], rows=True, weight_gradient=True)
    expected = native.read_backward(grad_output, values, slots, weights, rows=True, weight_gradient=True)
    assert torch.equal(found[0].rows, expected[0].rows) and torch.equal(found[1], expected[1])


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads():
    values, slots, weights, grad_output = random_read(300, 16, 500, 40)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        gradient, through_weights = native.read_backward(
            grad_output, values, slots, weights, rows=True, weight_gradient=True
        )
        rows = native.read_backward_of_rows(grad_output, slots, weights, gradient.slots[::3].contiguous())
        found = native.search(weights[None, :, :].expand(2, 300, 16)[:, None].expand(2, 2, 300, 16), 4)
        results.append([native.read(values, slots, weights), gradient.rows, through_weights, rows, *found])
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@every_kernel
@pytest.mark.parametrize("slot", [-1, 20, 1 << 40])
@every_dtype
def test_a_slot_outside_the_table_is_reported(kernels, slot, dtype):
    values, slots, weights, _ = random_read(4, 3, 20, 5, dtype=dtype)
    slots[2, 1] = slot
    with pytest.raises(IndexError, match=f"slot {slot} lies outside the table of 20 slots"):
        kernels.read(values, slots, weights)


@needs_compiler
@pytest.mark.parametrize("rows", [True, False])
def test_no_kernel_leaves_the_table_in_backward_either(rows):
    values, slots, weights, grad_output = random_read(4, 3, 20, 5)
    slots[2, 1] = 20
    with pytest.raises(IndexError, match="slot 20 lies outside the table of 20 slots"):
        native.read_backward(grad_output, values, slots, weights, rows=rows, weight_gradient=True)


@needs_compiler
def test_no_kernel_reads_beyond_a_tensor_that_is_too_small():
    values, slots, weights, grad_output = random_read(4, 3, 20, 5)
    for small in (
        lambda: native.read_backward(grad_output, values, slots, weights[:2], rows=True, weight_gradient=True),
        lambda: native.read_backward(grad_output[:2], values, slots, weights, rows=False, weight_gradient=True),
        lambda: native.read_backward_of_rows(grad_output[:2], slots, weights, slots.unique()),
        lambda: native.read(values.bfloat16(), slots, weights[:2]),
        lambda: native.merge_rows([RowGradient(torch.tensor([0, 1]), torch.zeros(size, 5)) for size in (2, 1)]),
    ):
        with pytest.raises(ValueError, match=r"has shape \[.*\] where \[.*\] is needed"):
            small()


@every_kernel
def test_a_negative_slot_matches_no_chosen_row(kernels):
    _, slots, weights, grad_output = random_read(30, 6, 20, 5)
    rows = torch.arange(0, 20, 3)
    expected = kernels.read_backward_of_rows(grad_output, slots.clamp(min=0), weights, rows[1:])
    slots[slots < 3] = -1
    assert torch.equal(kernels.read_backward_of_rows(grad_output, slots, weights, rows)[1:], expected)
    assert not kernels.read_backward_of_rows(grad_output, slots, weights, rows)[0].any()


@every_kernel
@pytest.mark.parametrize("width", [7, 8, 33])
def test_all_halves_are_widened_exactly(kernels, width):
    """All of them, including subnormal numbers, infinities and NaNs."""
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    values = halves[: len(halves) // width * width].view(-1, width)
    slots, ones = torch.arange(len(values))[:, None], torch.ones(len(values), 1)
    torch.testing.assert_close(kernels.read(values, slots, ones), values, rtol=0, atol=0, equal_nan=True)
    grad_output = torch.zeros(len(values), width)
    grad_output[:, 0] = 1
    finite = torch.where(values.isfinite(), values, 0)
    _, through_weights = kernels.read_backward(grad_output, finite, slots, ones, rows=False, weight_gradient=True)
    assert torch.equal(through_weights[:, 0], finite[:, 0].float())


@every_kernel
def test_sums_of_halves_are_fp32(kernels):
    """Intermediate sums exceed the range of fp16, and differences are below its resolution."""
    values = torch.tensor([[6e4], [6e4], [-6e4], [2048.0], [1.0]], dtype=torch.float16)
    ones, slots = torch.ones(1, 3), torch.tensor([[0, 1, 2]])
    assert kernels.read(values, slots, ones) == torch.tensor(6e4, dtype=torch.float16)
    many = torch.tensor([[3, *[4] * 2048]])
    assert float(kernels.read(values, many, torch.ones(1, 2049))) == 4096
    assert float(kernels.read(values, many[:, :2], torch.tensor([[1e-5, 1e-4]]))) == pytest.approx(0.02058, rel=1e-3)


# Sums and counts


@every_kernel
def test_merged_rows_are_the_sum(kernels):
    generator = torch.Generator().manual_seed(0)
    parts = []
    for size in (5, 0, 17, 20):
        slots = torch.randperm(30, generator=generator)[:size].sort().values
        parts.append(RowGradient(slots, torch.randn(size, 7, generator=generator)))
    dense = torch.zeros(30, 7, dtype=torch.float64)
    for part in parts:
        dense.index_add_(0, part.slots, part.rows.double())
    merged = kernels.merge_rows(parts)
    assert torch.equal(merged.slots, torch.cat([part.slots for part in parts]).unique())
    torch.testing.assert_close(merged.rows.double(), dense[merged.slots], rtol=1e-6, atol=1e-6)


@every_kernel
def test_squared_norms_are_computed_in_fp64_and_detect_the_smallest_gradient(kernels):
    rows = torch.randn(9, 33, generator=torch.Generator().manual_seed(0))
    rows[3], rows[4], rows[5, 7] = 0, 1e-30, float("nan")
    found = kernels.squared_norms(rows)
    torch.testing.assert_close(found, rows.double().square().sum(dim=1), equal_nan=True)
    assert (found != 0).tolist() == [True, True, True, False, True, True, True, True, True]


@every_kernel
def test_merging_nothing_gives_nothing(kernels):
    empty = RowGradient(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 7))
    merged = kernels.merge_rows([empty, empty])
    assert merged.slots.shape == (0,) and merged.rows.shape == (0, 7)


@every_kernel
@pytest.mark.parametrize(("size", "largest"), [(0, 1), (1, 1), (5000, 3), (5000, 2**11), (5000, 2**25), (5000, 2**32)])
def test_counts_are_those_of_a_plain_count(kernels, size, largest):
    slots = torch.randint(0, largest, (size,), generator=torch.Generator().manual_seed(0))
    found = kernels.count(slots)
    for tensor, expected in zip(found, slots.unique(return_counts=True), strict=True):
        assert torch.equal(tensor, expected)


# Lazy Adam


@every_kernel
@every_dtype
def test_lazy_adam_equals_torchs_adam_on_the_rows_read_and_leaves_others_unchanged(kernels, dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 7, generator=generator).to(dtype)
    before, first, second = values.clone(), torch.zeros(50, 7), torch.zeros(50, 7)
    slots = torch.tensor([0, 3, 49])
    exact = torch.nn.Parameter(values[slots].double())
    adam = torch.optim.Adam([exact], lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for number in range(1, 4):
        rows = torch.randn(3, 7, generator=generator)
        kernels.lazy_adam_step(
            values, first, second, RowGradient(slots, rows), AdamStep(number, 0.01, 0.9, 0.95, 1e-8, 0.5)
        )
        exact.grad = rows.double() * 0.5
        adam.step()
    rounding = 3 * ROUNDING[dtype] + 1e-5
    torch.testing.assert_close(values[slots].double(), exact.detach(), rtol=rounding, atol=1e-6 + 0.06 * rounding)
    others = torch.ones(50, dtype=torch.bool)
    others[slots] = False
    assert torch.equal(values[others], before[others])
    assert not first[others].any() and not second[others].any()
    assert first[slots].all() and second[slots].all()


# If they cannot be built


def available_with(tmp_path, **environment):
    code = (
        "import logging; logging.basicConfig(format='%(message)s'); from memlm.model.kernels import native, kernels_for; "
        "import torch; print(native.is_available(), kernels_for(torch.zeros(1)).__name__)"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_without_a_compiler_plain_torch_runs_with_one_warning(tmp_path):
    done = available_with(tmp_path, CXX="no-such-compiler")
    assert done.stdout.split() == ["False", "memlm.model.kernels.reference"]
    assert done.stderr.count("\n") == 1 and "not found" in done.stderr


def test_a_failed_build_falls_back_to_plain_torch_and_gives_the_reason(tmp_path):
    done = available_with(tmp_path, CXX="false")
    assert done.stdout.split() == ["False", "memlm.model.kernels.reference"]
    assert "cannot be built" in done.stderr
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
@needs_compiler
def test_remains_of_a_killed_build_do_not_interfere(tmp_path):
    folder = tmp_path / "memlm"
    (folder / "tmpkilled").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (folder / "tmpkilled" / "native.o").touch()
    (folder / native._library().with_suffix(".lock").name).touch()
    (folder / native._library().name).touch()
    done = available_with(tmp_path)
    assert done.stdout.split() == ["True", "memlm.model.kernels.native"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder that contains the built library."""
    folder = tmp_path_factory.mktemp("extensions")
    assert available_with(folder).stdout.split()[0] == "True"
    return folder


@pytest.mark.slow
@needs_compiler
def test_a_damaged_library_is_not_loaded_but_rebuilt(built):
    (library,) = built.rglob("*.so")
    whole = library.read_bytes()
    for damaged in b"", whole[: len(whole) // 2], bytes([*whole[:5000], whole[5000] ^ 1, *whole[5001:]]):
        library.write_bytes(damaged)
        assert not native._is_intact(library)
    assert available_with(built).stdout.split() == ["True", "memlm.model.kernels.native"]
    assert native._is_intact(library)


@pytest.mark.slow
@needs_compiler
def test_no_compiler_is_needed_after_the_build(built):
    assert available_with(built, CXX="no-such-compiler").stdout.split()[0] == "True"


@needs_compiler
def test_a_folder_writable_by_others_is_refused(tmp_path):
    (tmp_path / "memlm").mkdir()
    (tmp_path / "memlm").chmod(0o777)
    done = available_with(tmp_path)
    assert done.stdout.split()[0] == "False"
    assert "is writable by others" in done.stderr


@pytest.mark.slow
@needs_compiler
def test_the_builder_finds_the_ninja_of_its_own_environment(tmp_path):
    """The case of a user who calls .venv/bin/python on a machine without ninja."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for tool in Path(folder).iterdir():
            if tool.name != "ninja" and not (tools / tool.name).exists():
                (tools / tool.name).symlink_to(tool)
    assert available_with(tmp_path, PATH=str(tools)).stdout.split()[0] == "True"
