"""The search and the read as torch operators (torch.library), for compilers and exporters.

When torch.compile, torch.export or fake tensors trace a model, each is one operator with known
shapes, and another for its gradients. Which kernels compute it is decided when the traced program
runs, so the trace does not depend on the values or the machine. Exporters to ONNX do not know
custom operators and get the same computation in plain ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition
from torch._subclasses.fake_tensor import FakeTensor

from memlm.model.kernels import kernels_for


def is_traced(tensor: Tensor) -> bool:
    """Whether the tensor belongs to a program that is being traced. This is known while tracing,
    so it adds no branch to the program."""
    return torch.compiler.is_compiling() or isinstance(tensor, FakeTensor)


def find_slots(queries: Tensor, half_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Slots and scores as the operator below computes them, without torch's dispatch; all fp32."""
    num_tokens, num_heads, key_dim = queries.shape
    halves = queries.view(num_tokens, num_heads, 2, key_dim // 2).permute(1, 2, 0, 3)
    return kernels_for(queries).search(halves @ half_keys.transpose(-1, -2), top_k)


@torch.library.custom_op("memlm::product_key_search", mutates_args=())
def product_key_search(queries: Tensor, half_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    with torch.autocast(queries.device.type, enabled=False):
        return find_slots(queries, half_keys, top_k)


@product_key_search.register_fake
def _(queries: Tensor, half_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], queries.shape[1], top_k)
    return queries.new_empty(shape, dtype=torch.int64), queries.new_empty(shape)


@torch.library.custom_op("memlm::product_key_search_backward", mutates_args=())
def product_key_search_backward(
    grad_scores: Tensor, slots: Tensor, queries: Tensor, half_keys: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.autocast(queries.device.type, enabled=False):
        return kernels_for(queries).search_backward(grad_scores, slots, queries, half_keys)


@product_key_search_backward.register_fake
def _(grad_scores: Tensor, slots: Tensor, queries: Tensor, half_keys: Tensor) -> tuple[Tensor, Tensor]:
    return _like(queries), _like(half_keys)


def _keep_search(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    queries, half_keys, _ = inputs
    ctx.save_for_backward(queries, half_keys, output[0])
    ctx.mark_non_differentiable(output[0])


def _search_gradients(ctx: Any, _: Tensor, grad_scores: Tensor) -> tuple[Tensor | None, ...]:
    queries, half_keys, slots = ctx.saved_tensors
    return *product_key_search_backward(grad_scores, slots, queries, half_keys), None


product_key_search.register_autograd(_search_gradients, setup_context=_keep_search)


@torch.library.custom_op("memlm::weighted_read", mutates_args=())
def weighted_read(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    return kernels_for(values).read(values, slots, weights)


@weighted_read.register_fake
def _(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    return values.new_empty(slots.shape[0], values.shape[1])


@torch.library.custom_op("memlm::weighted_read_backward", mutates_args=())
def weighted_read_backward(
    grad_output: Tensor, values: Tensor, slots: Tensor, weights: Tensor, needs_values: bool, needs_weights: bool
) -> tuple[Tensor, Tensor]:
    """Both gradients, with an empty tensor in place of one that is not needed."""
    through_values, through_weights = dense_gradients(grad_output, values, slots, weights, needs_values, needs_weights)
    return (
        values.new_empty(0) if through_values is None else through_values,
        weights.new_empty(0) if through_weights is None else through_weights,
    )


def dense_gradients(
    grad_output: Tensor, values: Tensor, slots: Tensor, weights: Tensor, needs_values: bool, needs_weights: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the whole table, in its type, and of the weights, as far as they are
    needed."""
    gradient, through_weights = kernels_for(values).read_backward(
        grad_output.float(), values, slots, weights, rows=needs_values, weight_gradient=needs_weights
    )
    if gradient is None:
        return None, through_weights
    return torch.zeros_like(values).index_copy_(0, gradient.slots, gradient.rows.to(values.dtype)), through_weights


@weighted_read_backward.register_fake
def _(
    grad_output: Tensor, values: Tensor, slots: Tensor, weights: Tensor, needs_values: bool, needs_weights: bool
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(values) if needs_values else values.new_empty(0),
        _like(weights) if needs_weights else weights.new_empty(0),
    )


def _keep_read(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _read_gradients(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    needs_values, _, needs_weights = ctx.needs_input_grad
    through_values, through_weights = weighted_read_backward(
        grad_output, *ctx.saved_tensors, needs_values, needs_weights
    )
    return through_values if needs_values else None, None, through_weights if needs_weights else None


weighted_read.register_autograd(_read_gradients, setup_context=_keep_read)


def _like(tensor: Tensor) -> Tensor:
    """A new contiguous tensor of the same shape and type, as a kernel would allocate it."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


# The operators in plain ones, for exporters to ONNX.


def _in_plain_operators(operator: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return register_decomposition(operator._opoverload)


@_in_plain_operators(product_key_search)
def _(queries: Tensor, half_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Scores of all pairs of the best half-keys. A table of the few pairs that can be among the
    best would be a constant, which a decomposition cannot contain. Unlike torch's, ONNX's TopK
    puts the first of equal scores first, as the kernels do."""
    num_tokens, num_heads, key_dim = queries.shape
    halves = queries.view(num_tokens, num_heads, 2, key_dim // 2).permute(1, 2, 0, 3)
    best, best_keys = (halves @ half_keys.transpose(-1, -2)).topk(top_k)
    scores, pairs = (best[:, 0, :, :, None] + best[:, 1, :, None]).flatten(2).topk(top_k)
    left, right = best_keys[:, 0].gather(-1, pairs // top_k), best_keys[:, 1].gather(-1, pairs % top_k)
    slots = left * half_keys.shape[2] + right
    return slots.transpose(0, 1).contiguous(), scores.transpose(0, 1).contiguous()


@_in_plain_operators(weighted_read)
def _(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    return (weights[:, None] @ values[slots].float()).squeeze(1).to(values.dtype)
