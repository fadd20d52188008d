"""The weighted read: y = the sum of weight * value over the slots that a token reads. Also its
gradients.

Backward touches only the rows that were read. The pool chooses the form of their gradient: dense
for torch's optimizers, a list of row gradients for a row-sparse optimizer, or the gradient of a
few trainable rows for sparse memory finetuning.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from memlm.model import operators
from memlm.model.kernels import RowGradient, kernels_for
from memlm.model.operators import dense_gradients, is_traced

TABLE_TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Sums are fp32 for all of them."""


class TrainableRows(NamedTuple):
    """The rows of a pool that may change in this step, as a small leaf tensor that represents them
    in the read."""

    slots: Int[Tensor, " rows"]
    """Slot numbers in ascending order."""
    values: Float[Tensor, "rows value_dim"]
    """Equal to the pool's rows when the step begins; receives the gradient."""

    def read(
        self,
        values: Float[Tensor, "num_slots value_dim"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
    ) -> Float[Tensor, "tokens value_dim"]:
        """The read of the whole table whose gradient goes only to these rows and the weights."""
        require_read(values, slots, weights)
        return _TrainableRows.apply(self.values, values.detach(), self.slots, slots, weights)


class OutputGradients:
    """A list of the outputs of the reads in the step, one per read, each a leaf that receives its
    gradient. Nothing below a read gets one."""

    def __init__(self) -> None:
        self.outputs: list[Float[Tensor, "tokens value_dim"]] = []

    def read(
        self,
        values: Float[Tensor, "num_slots value_dim"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
    ) -> Float[Tensor, "tokens value_dim"]:
        with torch.no_grad():
            output = weighted_read(values, slots, weights)
        if torch.is_grad_enabled():
            self.outputs.append(output.requires_grad_(True))
        return output


class RowGradients:
    """A list to which each backward appends the gradient of the rows that were read."""

    def __init__(self, parts: Iterable[RowGradient] = ()) -> None:
        self.parts = list(parts)

    def read(
        self,
        values: Float[Tensor, "num_slots value_dim"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
    ) -> Float[Tensor, "tokens value_dim"]:
        """The read whose backward appends the table's gradient."""
        if not torch.is_grad_enabled():
            return weighted_read(values, slots, weights)
        require_read(values, slots, weights)
        if not weights.requires_grad:  # backward reaches only what something below requires
            weights = weights.detach().requires_grad_()
        return _RowGradients.apply(values.detach(), slots, weights, self.parts)


def weighted_read(
    values: Float[Tensor, "num_slots value_dim"],
    slots: Int[Tensor, "tokens reads"],
    weights: Float[Tensor, "tokens reads"],
) -> Float[Tensor, "tokens value_dim"]:
    """The read with a dense gradient of the table, for torch's own optimizers.

    Like the reads above, raises ValueError for tensors that do not fit together, and on a CPU
    IndexError for a slot outside the table. On a GPU, where that check would make the host wait,
    such a read gives NaN.
    """
    require_read(values, slots, weights)
    if is_traced(weights):
        return operators.weighted_read(values, slots, weights)
    return _DenseGradient.apply(values, slots, weights)


def require_read(values: Tensor, slots: Tensor, weights: Tensor) -> None:
    """Raise ValueError for tensors that do not fit together."""
    if values.dtype not in TABLE_TYPES:
        raise ValueError(f"values is {values.dtype}; a table must be float32, bfloat16 or float16")
    if slots.dtype != torch.int64 or weights.dtype != torch.float32:
        raise ValueError(f"slots is {slots.dtype} and weights is {weights.dtype}; they must be int64 and float32")
    if values.ndim != 2:
        raise ValueError(f"values has shape {tuple(values.shape)}; a table is [num_slots, value_dim]")
    if slots.ndim != 2 or slots.shape != weights.shape:
        raise ValueError(
            f"slots has shape {tuple(slots.shape)} and weights {tuple(weights.shape)}; both must be [tokens, reads]"
        )
    if not values.device == slots.device == weights.device:
        raise ValueError(
            f"values is on {values.device}, slots on {slots.device} and weights on {weights.device}; they must be on one device"
        )


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, slots, weights)
        return kernels_for(values).read(values, slots, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, slots, weights = ctx.saved_tensors
        needs_values, _, needs_weights = ctx.needs_input_grad
        through_values, through_weights = dense_gradients(
            grad_output, values, slots, weights, needs_values, needs_weights
        )
        return through_values, None, through_weights


class _RowGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, slots: Tensor, weights: Tensor, gradients: list[RowGradient]) -> Tensor:
        ctx.save_for_backward(values, slots, weights)
        ctx.gradients = gradients
        return kernels_for(values).read(values, slots, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, slots, weights = ctx.saved_tensors
        # Pads and the last token of a block have no gradient, so rows that only they read are not
        # among the trained rows.
        trained = grad_output.any(dim=1)
        everything = bool(trained.all())
        if not everything:
            grad_output, slots, weights = grad_output[trained], slots[trained], weights[trained]
        gradient, through_weights = kernels_for(values).read_backward(
            grad_output.float(), values, slots, weights, rows=True, weight_gradient=True
        )
        assert gradient is not None and through_weights is not None
        ctx.gradients.append(gradient)
        if everything:
            return None, None, through_weights, None
        spread = through_weights.new_zeros(len(trained), slots.shape[1])
        spread[trained] = through_weights
        return None, None, spread, None


class _TrainableRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, row_values: Tensor, values: Tensor, row_slots: Tensor, slots: Tensor, weights: Tensor
    ) -> Tensor:
        ctx.save_for_backward(values, row_slots, slots, weights)
        return kernels_for(values).read(values, slots, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, row_slots, slots, weights = ctx.saved_tensors
        kernels, grad_output = kernels_for(values), grad_output.float()
        gradient = kernels.read_backward_of_rows(grad_output, slots, weights, row_slots)
        # Weights need a gradient when parameters below this layer are trained too: they affect the
        # loss through this layer's lookup.
        through_weights = None
        if ctx.needs_input_grad[4]:
            _, through_weights = kernels.read_backward(
                grad_output, values, slots, weights, rows=False, weight_gradient=True
            )
        return gradient, None, None, None, through_weights
