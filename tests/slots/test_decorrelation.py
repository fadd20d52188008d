import pytest
import torch

from memlm.slots.decorrelation import EXACT_IN_FP32, Decorrelation, inverse, solve
from memlm.slots.kept import KeptTensors, key_of
from memlm.slots.reads import BackgroundReads


def random_reads(num_tokens=50, reads=4, num_slots=30, weights=None, seed=0) -> BackgroundReads:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randint(0, num_slots, (num_tokens, reads), generator=generator)
    weights = torch.rand(num_tokens, reads, generator=generator) if weights is None else weights
    return BackgroundReads(slots=slots.int(), weights=weights, num_tokens=num_tokens, num_slots=num_slots)


@pytest.mark.parametrize("tokens", [0.5, 40.0, 1e9])
def test_the_factor_is_that_of_the_matrix_in_fp32_or_fp64(tokens):
    reads, slots = random_reads(), torch.tensor([2, 3, 9, 11, 25])
    decorrelation = Decorrelation(reads, tokens)
    matrix = torch.eye(5, dtype=torch.float64) + reads.second_moment(slots) / decorrelation.damping
    factor = decorrelation.factor(slots)
    assert factor.dtype == (torch.float32 if matrix.norm() < EXACT_IN_FP32 else torch.float64)
    columns = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.solve(matrix, columns.double()).float()
    for found in (solve(factor, columns), inverse(factor) @ columns):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_lone_row_read_once_in_that_many_tokens_is_halved():
    slots = torch.zeros(100, 1, dtype=torch.int32)
    slots[1:] = 1
    reads = BackgroundReads(slots=slots, weights=torch.full((100, 1), 0.3), num_tokens=100, num_slots=3)
    moved = solve(Decorrelation(reads, 100).factor(torch.tensor([0, 2])), torch.ones(2, 1)).flatten()
    assert moved.tolist() == pytest.approx([0.5, 1.0])


def test_lambda_scales_with_the_square_of_the_weights():
    """So the setting means the same for another top_k, whose weights are smaller."""
    one = random_reads(weights=torch.full((50, 4), 0.25))
    other = random_reads(weights=torch.full((50, 4), 0.025))
    assert Decorrelation(one, 7).damping == pytest.approx(100 * Decorrelation(other, 7).damping)
    slots = torch.arange(30)
    torch.testing.assert_close(Decorrelation(one, 7).factor(slots), Decorrelation(other, 7).factor(slots))


def test_a_singular_moment_is_no_obstacle():
    """Two rows that are always read together, and one that is never read."""
    slots = torch.tensor([[0, 1]], dtype=torch.int32).expand(20, 2).contiguous()
    reads = BackgroundReads(slots=slots, weights=torch.full((20, 2), 0.5), num_tokens=20, num_slots=4)
    for tokens in (1e-3, 1.0, 1e12):
        factor = Decorrelation(reads, tokens).factor(torch.tensor([0, 1, 3]))
        assert bool(factor.isfinite().all())
        moved = solve(factor, torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]))
        torch.testing.assert_close(moved[:, 1], torch.tensor([1.0, -1.0, 1.0]), rtol=1e-3, atol=1e-3)
        assert float(moved[2, 0]) == 1.0 and 0 <= float(moved[0, 0]) < 1


@pytest.mark.parametrize("tokens", [float("inf"), 1e320])
def test_lambda_of_zero_is_refused(tokens):
    with pytest.raises(ValueError, match="lambda is 0.0.*lower halved_at_tokens"):
        Decorrelation(random_reads(), tokens)


def test_reads_without_a_token_are_refused():
    with pytest.raises(ValueError, match="lambda is 0.0: the background reads of 0 tokens.*counting.read_tokens"):
        Decorrelation(random_reads(num_tokens=0), 4000)


def test_what_was_used_longest_ago_is_dropped_first():
    kept, made = KeptTensors(), []

    def get(name: str, size: int = 10) -> torch.Tensor:
        return kept.get(key_of(name), lambda: made.append(name) or (torch.zeros(size),), max_bytes=100)[0]

    assert get("a") is get("a")
    get("b"), get("a"), get("c")  # a was used after b
    assert made == ["a", "b", "c"] and kept.num_bytes == 80
    get("a"), get("b")
    assert made == ["a", "b", "c", "b"]
    assert len(get("large", 1000)) == 1000 and kept.num_bytes == 0  # more than there is room for


def test_keys_differ_in_values_shapes_and_types():
    ones = torch.ones(4)
    keys = [key_of(ones), key_of(ones.view(2, 2)), key_of(ones.double()), key_of(2 * ones), key_of(ones, 1), key_of()]
    assert len(set(keys)) == len(keys) and key_of(ones, "x") == key_of(torch.ones(4), "x")
