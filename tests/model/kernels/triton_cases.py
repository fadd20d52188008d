"""Cases for the Triton kernels at odd sizes, compared with fp64; run on a GPU or, without one, in
Triton's interpreter.

`test_triton_kernels.py` runs this file in a process of its own, because Triton decides when it is
imported whether it interprets.
"""

import itertools
import os

import pytest
import torch
from triton.runtime import interpreter

from memlm.model.kernels import triton_kernels as kernels
from memlm.model.kernels import triton_lookup_sums, triton_search
from memlm.model.kernels.interface import AdamStep, RowGradient

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-7 if INTERPRETED else 2**-8, torch.float16: 2**-11}
"""Relative error of a result: half a unit in the last place, rounded to nearest; the interpreter
truncates bf16."""
DTYPES = list(ROUNDING)
SHAPES = [
    # value_dim, tokens, reads
    (1, 9, 7),
    (5, 1, 12),
    (24, 9, 1),
    (33, 9, 7),
    (130, 9, 12),
    (1100, 2, 9),  # several blocks of columns
    (33, 0, 7),
    (24, 9, 0),
]
NUM_SLOTS = 40


def case(value_dim, tokens, reads, dtype=torch.float32, seed=0):
    """Values, slots with many repetitions, weights and an output gradient."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(NUM_SLOTS, value_dim, generator=generator).to(DEVICE, dtype)
    slots = torch.randint(3, NUM_SLOTS - 3, (tokens, reads), generator=generator).to(DEVICE)
    weights = torch.randn(tokens, reads, generator=generator).to(DEVICE)
    return values, slots, weights, torch.randn(tokens, value_dim, generator=generator).to(DEVICE)


def lookups_of_runs(lengths, reads=4, value_dim=33):
    """A case in which slot i is read lengths[i] times, in any order; reads divides the sum of the
    lengths."""
    generator = torch.Generator().manual_seed(sum(lengths))
    slots = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    slots = slots[torch.randperm(len(slots), generator=generator)].view(-1, reads).to(DEVICE)
    values = torch.randn(NUM_SLOTS, value_dim, generator=generator).to(DEVICE)
    weights = torch.randn(slots.shape, generator=generator).to(DEVICE)
    return values, slots, weights, torch.randn(len(slots), value_dim, generator=generator).to(DEVICE)


def plain_read(values, slots, weights):
    return (values.double()[slots] * weights.double()[..., None]).sum(1)


def plain_table_gradient(grad_output, slots, weights, num_slots=NUM_SLOTS):
    contributions = (weights.double()[..., None] * grad_output.double()[:, None]).flatten(0, 1)
    zeros = contributions.new_zeros(num_slots, grad_output.shape[1])
    return zeros.index_add_(0, slots.flatten(), contributions)


def plain_weight_gradient(grad_output, values, slots):
    return (values.double()[slots] * grad_output.double()[:, None]).sum(2)


def assert_near(actual, exact, scale=1.0):
    """fp32 rounding of a sum of some hundred terms of order scale."""
    torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=2e-5 * scale)


def assert_backward_is_right(grad_output, values, slots, weights):
    gradient, through_weights = kernels.read_backward(
        grad_output, values, slots, weights, rows=True, weight_gradient=True
    )
    accessed = slots.unique()
    assert gradient.slots.dtype == torch.int64 and torch.equal(gradient.slots, accessed)
    assert gradient.rows.dtype == through_weights.dtype == torch.float32
    assert gradient.rows.shape == (len(accessed), values.shape[1]) and through_weights.shape == slots.shape
    assert_near(gradient.rows, plain_table_gradient(grad_output, slots, weights)[accessed])
    assert_near(through_weights, plain_weight_gradient(grad_output, values, slots), scale=5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("value_dim", "tokens", "reads"), SHAPES)
def test_read(value_dim, tokens, reads, dtype):
    values, slots, weights, _ = case(value_dim, tokens, reads, dtype)
    output = kernels.read(values, slots, weights)
    exact = plain_read(values, slots, weights)
    assert output.dtype == dtype and output.shape == (tokens, value_dim)
    # In 16 bits only the result is rounded: sums and weights are fp32.
    assert ((output.double() - exact).abs() <= exact.abs() * (ROUNDING[dtype] + 1e-5) + 1e-5).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("value_dim", "tokens", "reads"), SHAPES)
def test_read_backward(value_dim, tokens, reads, dtype):
    values, slots, weights, grad_output = case(value_dim, tokens, reads, dtype)
    assert_backward_is_right(grad_output, values, slots, weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("value_dim", "tokens", "reads"), SHAPES)
def test_gradient_of_the_weights_alone(value_dim, tokens, reads, dtype):
    values, slots, weights, grad_output = case(value_dim, tokens, reads, dtype)
    gradient, through_weights = kernels.read_backward(
        grad_output, values, slots, weights, rows=False, weight_gradient=True
    )
    assert gradient is None and through_weights.dtype == torch.float32 and through_weights.shape == slots.shape
    assert_near(through_weights, plain_weight_gradient(grad_output, values, slots), scale=5)


def test_only_the_requested_gradients_are_computed():
    values, slots, weights, grad_output = case(33, 9, 7)
    gradient, through_weights = kernels.read_backward(
        grad_output, values, slots, weights, rows=True, weight_gradient=False
    )
    assert through_weights is None
    assert_near(gradient.rows, plain_table_gradient(grad_output, slots, weights)[slots.unique()])
    nothing = kernels.read_backward(grad_output, values, slots, weights, rows=False, weight_gradient=False)
    assert nothing == (None, None)


def assert_rows_read_often_are_right(lengths):
    values, slots, weights, grad_output = lookups_of_runs(lengths)
    assert_backward_is_right(grad_output, values, slots, weights)
    rows = torch.tensor([0, 1, NUM_SLOTS - 1], device=DEVICE)
    assert_near(
        kernels.read_backward_of_rows(grad_output, slots, weights, rows),
        plain_table_gradient(grad_output, slots, weights)[rows],
    )


@pytest.fixture
def small_chunks(monkeypatch):
    """Small chunks, because the interpreter takes milliseconds per lookup."""
    monkeypatch.setattr(triton_lookup_sums, "CHUNK", C)


C = 8


@pytest.mark.parametrize(
    "lengths",
    [
        (5, 4 * C + 10, 1),  # one row that gets most lookups
        (C, 2 * C, 1, C - 1, C + 8),  # rows that end or begin at a chunk's end
        (1, C - 1, C, 4),
        (C - 1, 1, 4),
        (33 * C + 12,),  # more partial rows than are added at once
    ],
)
def test_rows_read_many_times(lengths, small_chunks):
    assert_rows_read_often_are_right(lengths)


def test_a_row_read_hundreds_of_times():
    assert_rows_read_often_are_right((5, 2 * triton_lookup_sums.CHUNK + 90, 1))


@pytest.mark.parametrize(("value_dim", "tokens", "reads"), SHAPES)
def test_gradient_of_given_rows(value_dim, tokens, reads):
    _, slots, weights, grad_output = case(value_dim, tokens, reads)
    rows = torch.tensor([0, 1, 5, 6, 7, 20, 33, NUM_SLOTS - 1], device=DEVICE)
    gradient = kernels.read_backward_of_rows(grad_output, slots, weights, rows)
    assert gradient.dtype == torch.float32 and gradient.shape == (8, value_dim)
    assert_near(gradient, plain_table_gradient(grad_output, slots, weights)[rows])
    assert not gradient[[0, 1, 7]].any()  # not read
    assert kernels.read_backward_of_rows(grad_output, slots, weights, rows[:0]).shape == (0, value_dim)


def strided(tensor):
    """The same numbers in a tensor none of whose strides is the default."""
    spread = torch.full([2 * n for n in reversed(tensor.shape)], 7, dtype=tensor.dtype, device=tensor.device)
    view = spread[tuple(slice(None, None, 2) for _ in tensor.shape)].permute(*reversed(range(tensor.ndim)))
    return view.copy_(tensor)


def assert_same(found, expected):
    """Compare to the bit, except for the order of sums: on a GPU, a tensor's strides determine the
    layout of a tile, and that the order of its sum."""
    if INTERPRETED:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_strided_inputs():
    values, slots, weights, grad_output = case(33, 9, 7)
    views = [strided(tensor) for tensor in (grad_output, values, slots, weights)]
    assert not any(view.is_contiguous() for view in views)
    assert_same(kernels.read(*views[1:]), kernels.read(values, slots, weights))
    for rows in (True, False):
        flags = {"rows": rows, "weight_gradient": True}
        gradient, through_weights = kernels.read_backward(*views, **flags)
        expected, expected_through_weights = kernels.read_backward(grad_output, values, slots, weights, **flags)
        assert_same(through_weights, expected_through_weights)
        if rows:
            assert_same(gradient.rows, expected.rows)
            assert torch.equal(gradient.slots, expected.slots)
    rows = torch.tensor([5, 6, 20], device=DEVICE)
    assert_same(
        kernels.read_backward_of_rows(views[0], views[2], views[3], strided(rows)),
        kernels.read_backward_of_rows(grad_output, slots, weights, rows),
    )


@pytest.mark.parametrize("wrong", [-1, NUM_SLOTS, 2**32 + 5, -(2**40)])
def test_a_slot_outside_the_table_gives_nan_and_is_not_followed(wrong):
    values, slots, weights, grad_output = case(33, 4, 7)
    slots[1, 2], slots[3, 6] = wrong, wrong
    weights[1, 2] = 0.0
    output = kernels.read(values, slots, weights)
    assert output[[1, 3]].isnan().all()
    assert_near(output[[0, 2]], plain_read(values, slots[[0, 2]], weights[[0, 2]]))
    is_wrong = slots == wrong
    inside = torch.where(is_wrong, 3, slots)
    expected = plain_weight_gradient(grad_output, values, inside)
    for rows in (True, False):
        gradient, through_weights = kernels.read_backward(
            grad_output, values, slots, weights, rows=rows, weight_gradient=True
        )
        assert torch.equal(through_weights.isnan(), is_wrong)
        assert_near(through_weights[~is_wrong], expected[~is_wrong], scale=5)
        if rows:
            accessed = slots[~is_wrong].unique()
            assert torch.equal(gradient.slots, accessed)
            exact = plain_table_gradient(grad_output, inside, weights.masked_fill(is_wrong, 0.0))
            assert_near(gradient.rows, exact[accessed])


def test_all_slots_outside_the_table():
    values, slots, weights, grad_output = case(5, 2, 3)
    gradient, through_weights = kernels.read_backward(
        grad_output, values, slots + NUM_SLOTS, weights, rows=True, weight_gradient=True
    )
    assert len(gradient.slots) == 0 and gradient.rows.shape == (0, 5) and through_weights.isnan().all()


def test_more_lookups_than_32_bits_can_number_are_refused():
    slots = torch.zeros(1, 1, dtype=torch.int64, device=DEVICE).expand(2**20, 2**11)
    rows = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="slots holds 2147483648 lookups.*fewer tokens"):
        kernels.read_backward_of_rows(torch.empty(0, device=DEVICE), slots, slots, rows)


def results_of_all_sums():
    values, slots, weights, grad_output = lookups_of_runs((5, 4 * C + 10, 1, 40, 8), value_dim=70)
    gradient, through_weights = kernels.read_backward(
        grad_output, values, slots, weights, rows=True, weight_gradient=True
    )
    other = kernels.read_backward_of_rows(grad_output, slots, weights, gradient.slots[1:3])
    merged = kernels.merge_rows([gradient, RowGradient(gradient.slots[1:3], other), gradient])
    return [kernels.read(values, slots, weights), gradient.rows, through_weights, other, merged.rows]


def test_results_do_not_depend_on_the_order_of_programs(monkeypatch, small_chunks):
    """Each sum has one owner, so the order of programs does not matter: the interpreter runs them
    in reverse order, a GPU in any."""
    once = results_of_all_sums()
    if INTERPRETED:
        reversed_grids = []
        monkeypatch.setattr(
            interpreter, "range", lambda n: reversed_grids.append(n) or reversed(range(n)), raising=False
        )
    again = results_of_all_sums()
    assert not INTERPRETED or max(reversed_grids) > 10
    assert all(torch.equal(first, second) for first, second in zip(once, again, strict=True))


def random_row_gradient(slots, value_dim, seed):
    rows = torch.randn(len(slots), value_dim, generator=torch.Generator().manual_seed(seed))
    return RowGradient(torch.tensor(slots, dtype=torch.int64, device=DEVICE), rows.to(DEVICE))


@pytest.mark.parametrize("value_dim", [1, 24, 33, 1100])
def test_merged_rows(value_dim):
    slots = [[2, 5, 9, 30], [], [0, 5, 9], [5, 39]]
    parts = [random_row_gradient(part, value_dim, seed) for seed, part in enumerate(slots)]
    parts[0] = parts[0]._replace(rows=torch.cat([parts[0].rows, parts[0].rows], 1)[:, :value_dim])
    parts[2] = parts[2]._replace(rows=strided(parts[2].rows))
    merged = kernels.merge_rows(parts)
    assert merged.slots.tolist() == [0, 2, 5, 9, 30, 39] and merged.rows.dtype == torch.float32
    exact = torch.zeros(NUM_SLOTS, value_dim, dtype=torch.float64, device=DEVICE)
    for part in parts:
        exact[part.slots] += part.rows.double()
    assert_near(merged.rows, exact[merged.slots])


def test_parts_are_added_in_order():
    """1e8 + 1 - 1e8 is 0 in fp32, and 1e8 - 1e8 + 1 is 1."""
    parts = [
        random_row_gradient([4], 1, 0)._replace(rows=torch.full((1, 1), x, device=DEVICE)) for x in (1e8, 1.0, -1e8)
    ]
    assert kernels.merge_rows(parts).rows.item() == 0
    assert kernels.merge_rows([parts[0], parts[2], parts[1]]).rows.item() == 1


def test_merging_one_part_or_empty_ones():
    part = random_row_gradient([1, 3], 5, 0)
    assert torch.equal(kernels.merge_rows([part]).rows, part.rows)
    empty = random_row_gradient([], 5, 0)
    merged = kernels.merge_rows([empty, empty])
    assert merged.slots.shape == (0,) and merged.rows.shape == (0, 5)


def test_count():
    slots, counts = kernels.count(torch.tensor([7, 3, 7, 2**40, 7], device=DEVICE))
    assert slots.tolist() == [3, 7, 2**40] and counts.tolist() == [1, 3, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("value_dim", "view"), [(1, False), (33, True), (1100, False)])
def test_lazy_adam(value_dim, view, dtype):
    generator = torch.Generator().manual_seed(value_dim)
    tables = [torch.randn(NUM_SLOTS, value_dim, generator=generator).to(DEVICE, dtype)]
    tables += [torch.zeros(NUM_SLOTS, value_dim, device=DEVICE) for _ in range(2)]
    values, first, second = [strided(table) for table in tables] if view else tables
    start = values.clone()
    exact_value, exact_first, exact_second = (table.double() for table in (values, first, second))
    touched = torch.zeros(NUM_SLOTS, dtype=torch.bool, device=DEVICE)
    for number, slots in enumerate([[1, 5, 39], [5, 6], [0, 5, 39]], start=1):
        gradient = random_row_gradient(slots, value_dim, number)
        if view:
            gradient = RowGradient(strided(gradient.slots), strided(gradient.rows))
        step = AdamStep(number, learning_rate=0.02, beta1=0.9, beta2=0.98, epsilon=1e-3, gradient_scale=0.5)
        kernels.lazy_adam_step(values, first, second, gradient, step)
        rows = gradient.rows.double() * 0.5
        touched[slots] = True
        exact_first[slots] = 0.9 * exact_first[slots] + 0.1 * rows
        exact_second[slots] = 0.98 * exact_second[slots] + 0.02 * rows**2
        corrected = exact_first[slots] / (1 - 0.9**number)
        exact_value[slots] -= 0.02 * corrected / ((exact_second[slots] / (1 - 0.98**number)).sqrt() + 1e-3)
    rounding = 3 * ROUNDING[dtype] or 1e-6
    torch.testing.assert_close(values.double(), exact_value, rtol=rounding, atol=1e-6 + 0.06 * rounding)
    torch.testing.assert_close(first.double(), exact_first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second.double(), exact_second, rtol=1e-5, atol=1e-6)
    assert torch.equal(values[~touched], start[~touched]) and not first[~touched].any() and not second[~touched].any()


def test_lazy_adam_skips_slots_outside_the_table_and_empty_gradients():
    memory = torch.ones(3, NUM_SLOTS + 2, 5, device=DEVICE)
    step = AdamStep(1, learning_rate=0.1, beta1=0.9, beta2=0.99, epsilon=1e-8)
    for slots in ([], [-1, NUM_SLOTS]):
        kernels.lazy_adam_step(*memory[:, 1:-1], random_row_gradient(slots, 5, 0), step)
        assert torch.equal(memory, torch.ones_like(memory))


def best_pairs(halves, top_k):
    """All pairs of one token and head, in the order that `Kernels.search` promises, by sorting
    tuples."""
    num_half_keys = len(halves[0])
    ranked = [sorted(range(num_half_keys), key=lambda key, half=half: (-half[key], key)) for half in halves]
    scores = [[half[key] for key in order] for half, order in zip(halves, ranked, strict=True)]
    sums = torch.tensor(scores[0])[:, None] + torch.tensor(scores[1])  # in fp32, like the kernel
    pairs = sorted(itertools.product(range(num_half_keys), repeat=2), key=lambda pair: (-sums[pair].item(), pair))
    slots = [ranked[0][i] * num_half_keys + ranked[1][j] for i, j in pairs[:top_k]]
    return slots, [sums[pair].item() for pair in pairs[:top_k]]


@pytest.mark.parametrize(
    ("num_half_keys", "top_k", "heads", "tokens"), [(1, 1, 1, 2), (5, 5, 2, 1), (33, 7, 1, 2), (20, 8, 2, 1)]
)
def test_search(num_half_keys, top_k, heads, tokens):
    generator = torch.Generator().manual_seed(num_half_keys)
    # Quarters, so that many scores tie.
    sub_scores = torch.randn(heads, 2, tokens, num_half_keys, generator=generator).mul_(4).round_().div_(4)
    slots, scores = kernels.search(strided(sub_scores.to(DEVICE)), top_k)
    assert slots.shape == scores.shape == (tokens, heads, top_k)
    for token, head in itertools.product(range(tokens), range(heads)):
        expected_slots, expected_scores = best_pairs(sub_scores[head, :, token].tolist(), top_k)
        assert slots[token, head].tolist() == expected_slots
        assert scores[token, head].tolist() == expected_scores


def test_zeros_of_both_signs_tie():
    zeros = torch.tensor([-0.0, 0.0, -0.0, 0.0], device=DEVICE).expand(1, 2, 1, 4)
    slots, scores = kernels.search(zeros, 4)
    assert slots.tolist() == [[[0, 1, 2, 3]]] and not scores.any()


def test_search_of_more_half_keys_than_registers_hold_and_of_no_token():
    sub_scores = torch.zeros(1, 2, 1, triton_search.MAX_HALF_KEYS + 1, device=DEVICE)
    sub_scores[0, 0, 0, -1], sub_scores[0, 1, 0, 3] = 2.0, 1.0
    slots, scores = kernels.search(sub_scores, 2)
    last = triton_search.MAX_HALF_KEYS * (triton_search.MAX_HALF_KEYS + 1)
    assert slots.tolist() == [[[last + 3, last]]] and scores.tolist() == [[[3.0, 2.0]]]
    slots, scores = kernels.search(torch.zeros(2, 2, 0, 9, device=DEVICE), 3)
    assert slots.shape == scores.shape == (0, 2, 3)


@pytest.mark.parametrize(("tokens", "heads", "num_half_keys", "half_dim", "top_k"), [(9, 2, 7, 5, 4), (0, 3, 6, 3, 2)])
def test_search_backward(tokens, heads, num_half_keys, half_dim, top_k):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(tokens, heads, 2 * half_dim, generator=generator).to(DEVICE)
    half_keys = torch.randn(heads, 2, num_half_keys, half_dim, generator=generator).to(DEVICE)
    grad_scores = torch.randn(tokens, heads, top_k, generator=generator).to(DEVICE)
    slots = torch.rand(tokens, heads, num_half_keys**2, generator=generator).argsort(-1)[..., :top_k].to(DEVICE)
    grad_queries, grad_half_keys = kernels.search_backward(strided(grad_scores), slots, strided(queries), half_keys)

    exact_queries, exact_half_keys = (x.double().requires_grad_() for x in (queries, half_keys))
    sub_scores = torch.einsum("thsd,hsnd->thsn", exact_queries.view(tokens, heads, 2, half_dim), exact_half_keys)
    first = sub_scores[:, :, 0].gather(-1, slots // num_half_keys)
    second = sub_scores[:, :, 1].gather(-1, slots % num_half_keys)
    ((first + second) * grad_scores.double()).sum().backward()
    assert_near(grad_queries, exact_queries.grad)
    assert_near(grad_half_keys, exact_half_keys.grad)
