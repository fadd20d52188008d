"""The three forms of a read's gradient, which all agree with the plain definition."""

import pytest
import torch

from memlm.model.weighted_read import RowGradients, TrainableRows, weighted_read


def random_read(*, untrained=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(40, 7, generator=generator)
    slots = torch.randint(0, 40, (9, 6), generator=generator)
    weights = torch.rand(9, 6, generator=generator).requires_grad_(True)
    grad_output = torch.randn(9, 7, generator=generator)
    grad_output[list(untrained)] = 0
    return values, slots, weights, grad_output


def plain(values, slots, weights, grad_output):
    values = values.clone().requires_grad_(True)
    output = (values[slots] * weights[..., None]).sum(dim=1)
    return output, *torch.autograd.grad(output, [values, weights], grad_output)


def test_the_dense_gradient():
    values, slots, weights, grad_output = random_read()
    output, grad_values, grad_weights = plain(values, slots, weights, grad_output)
    leaf = values.clone().requires_grad_(True)
    found = weighted_read(leaf, slots, weights)
    torch.testing.assert_close(found, output)
    for gradient, expected in zip(
        torch.autograd.grad(found, [leaf, weights], grad_output), (grad_values, grad_weights), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("untrained", [(), (2, 8), tuple(range(9))], ids=["all", "some", "none"])
def test_row_gradients_are_the_dense_one_at_the_rows_that_trained_tokens_read(untrained):
    values, slots, weights, grad_output = random_read(untrained=untrained)
    _, grad_values, grad_weights = plain(values, slots, weights, grad_output)
    gradients = RowGradients()
    (through_weights,) = torch.autograd.grad(gradients.read(values, slots, weights), [weights], grad_output)
    trained = [token for token in range(9) if token not in untrained]
    (gradient,) = gradients.parts
    assert torch.equal(gradient.slots, slots[trained].unique())
    torch.testing.assert_close(gradient.rows, grad_values[gradient.slots])
    torch.testing.assert_close(through_weights, grad_weights)


def test_trainable_rows_get_the_dense_gradient_and_no_other_row_gets_one():
    values, slots, weights, grad_output = random_read()
    _, grad_values, grad_weights = plain(values, slots, weights, grad_output)
    rows = slots.unique()[::3]
    trainable = TrainableRows(rows, values[rows].clone().requires_grad_(True))
    output = trainable.read(values, slots, weights)
    found = torch.autograd.grad(output, [trainable.values, weights], grad_output)
    for gradient, expected in zip(found, (grad_values[rows], grad_weights), strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("read", ["dense", "row gradients", "trainable rows"])
def test_a_table_of_16_bits_is_read_and_trained_as_its_fp32_copy_to_rounding(dtype, read):
    values, slots, weights, grad_output = random_read()
    values, grad_output = values.to(dtype), grad_output.to(dtype)
    expected = plain(values.float(), slots, weights, grad_output.float())
    rows, gradients = slots.unique(), RowGradients()
    leaf = values.clone().requires_grad_(True)
    trainable = TrainableRows(rows, values[rows].float().requires_grad_(True))
    output, moves = {
        "dense": lambda: (weighted_read(leaf, slots, weights), leaf),
        "row gradients": lambda: (gradients.read(values, slots, weights), None),
        "trainable rows": lambda: (trainable.read(values, slots, weights), trainable.values),
    }[read]()
    assert output.dtype == dtype
    through_weights, *rest = torch.autograd.grad(output, [weights] if moves is None else [weights, moves], grad_output)
    found = gradients.parts[0].rows if moves is None else rest[0] if read == "trainable rows" else rest[0][rows]
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), expected[0], rtol=rounding, atol=1e-5)
    torch.testing.assert_close(through_weights, expected[2])
    torch.testing.assert_close(found.float(), expected[1][rows], rtol=rounding if read == "dense" else 1e-5, atol=1e-5)


def test_a_slot_outside_the_table_is_an_error_that_names_it():
    values, slots, weights, _ = random_read()
    slots[3, 2] = 40
    with pytest.raises(IndexError, match="slot 40 lies outside the table of 40 slots"):
        weighted_read(values, slots, weights)


@pytest.mark.parametrize("shape", [(0, 6), (9, 0)])
def test_no_tokens_or_no_reads_give_zeros_and_no_rows(shape):
    values, gradients = torch.randn(40, 7), RowGradients()
    slots, weights = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, requires_grad=True)
    output = gradients.read(values, slots, weights)
    assert torch.equal(output, torch.zeros(shape[0], 7))
    output.backward(torch.ones(shape[0], 7))
    assert weights.grad.shape == shape and len(gradients.parts[0].slots) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": torch.zeros(4, 2, dtype=torch.float64)}, "values is torch.float64"),
        ({"values": torch.zeros(4, 2, dtype=torch.int8)}, "values is torch.int8"),
        ({"slots": torch.zeros(3, 5, dtype=torch.int32)}, "slots is torch.int32"),
        ({"weights": torch.zeros(3, 5, dtype=torch.bfloat16)}, "weights is torch.bfloat16"),
        ({"weights": torch.zeros(3, 4)}, r"slots has shape \(3, 5\) and weights \(3, 4\)"),
        ({"slots": torch.zeros(5, dtype=torch.int64), "weights": torch.zeros(5)}, r"both must be \[tokens, reads\]"),
        ({"slots": torch.zeros(3, 5, dtype=torch.int64, device="meta")}, "must be on one device"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(changed, message):
    tensors = {"values": torch.zeros(4, 2), "slots": torch.zeros(3, 5, dtype=torch.int64), "weights": torch.zeros(3, 5)}
    with pytest.raises(ValueError, match=message):
        weighted_read(**(tensors | changed))
