"""A whole memory layer in training: forward, backward and optimizer. Ours, and our formula
written with torch's own pieces."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memlm.model.memory import MemoryLayer, ValuePool
from memlm.model.weighted_read import RowGradients
from memlm.training.row_sparse import LazyAdam
from tests.benchmarks.contender import Clock, Contender, begin_group_of_one
from tests.benchmarks.contenders.search import square_search
from tests.benchmarks.inputs import (
    LayerShape,
    compared_slots,
    hidden_states,
    layer_weights,
    output_gradient,
    value_table,
)
from tests.benchmarks.measure import far_apart

LEARNING_RATE = 1e-3
BETAS, EPSILON = (0.9, 0.95), 1e-8
# Pretraining decays no values, and both sides must do the same work; on the other weights decay
# costs almost nothing.
adamw = partial(torch.optim.AdamW, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True)

TIED = 2e-3
"""Share of elements that may differ, because another slot can come in at the k-th place where a sum
is rounded differently."""


class TrainingStep(Contender):
    """Training steps on the same input with a given gradient of the output."""

    module: nn.Module

    def __init__(self, *, device: torch.device, **shape: int) -> None:
        self.shape = LayerShape(**shape)
        self.device = device
        # In a network the gradient goes on to the layer below.
        self.hidden = hidden_states(self.shape, device).requires_grad_(True)
        self.gradient = output_gradient(self.shape.num_tokens, self.shape.width, device)

    def run(self) -> Tensor:
        """Output of the layer for the hidden states."""
        return self.module(self.hidden)

    @abstractmethod
    def optimize(self) -> None:
        """Move all parameters with a gradient, and clear the gradients."""

    def repeat(self, clock: Clock) -> None:
        with clock:
            self.run().backward(self.gradient)
            self.optimize()
            self.hidden.grad = None


class _SameFormula(TrainingStep):
    """A layer whose first step is compared: output, gradients, and the rows of the table after
    it."""

    table: Tensor

    @abstractmethod
    def table_gradient(self, slots: Tensor) -> Tensor:
        """Gradient of the table at these rows, after backward and before the optimizer."""

    def outputs(self) -> dict[str, Tensor]:
        compared = compared_slots(self.shape.num_slots, self.device)
        output = self.run()
        output.backward(self.gradient)
        assert self.hidden.grad is not None
        found = {
            "output": output.detach(),
            "gradient of the input": self.hidden.grad,
            "gradient of the queries": self.parameter("query.weight").grad,
            "gradient of the half-keys": self.parameter("half_keys").grad,
            "gradient of the rows": self.table_gradient(compared),
        }
        found = {name: tensor.clone() for name, tensor in found.items() if tensor is not None}
        before = self.table.detach()[compared].clone()
        self.optimize()
        self.hidden.grad = None
        return {**found, "step of the rows": self.table.detach()[compared] - before}

    def parameter(self, name: str) -> nn.Parameter:
        return self.module.get_parameter(name)


class OurLayer(_SameFormula):
    """MemoryLayer, with the row gradients of its pool and lazy Adam on them."""

    def __init__(self, *, device: torch.device, **shape: int) -> None:
        super().__init__(device=device, **shape)
        s = self.shape
        with torch.device("meta"):
            pool = ValuePool(s.num_slots, s.value_dim)
            layer = MemoryLayer(
                pool,
                hidden_size=s.width,
                num_half_keys=s.num_half_keys,
                top_k=s.top_k,
                num_heads=s.num_heads,
                key_dim=s.key_dim,
                query_norm=False,
            )
        values = value_table(s.num_slots, s.value_dim, device)
        layer.load_state_dict({**layer_weights(s, device), "pool.weight": values}, assign=True)
        # LazyAdam adds up over ranks, of which there is one.
        self._end_group = begin_group_of_one(device)
        self.values_optimizer = LazyAdam([pool], betas=BETAS, epsilon=EPSILON)
        self.pool, self.module, self.table = pool, layer.requires_grad_(True), pool.weight
        self.optimizer = adamw(layer.parameters())

    def table_gradient(self, slots: Tensor) -> Tensor:
        assert isinstance(self.pool.gradient_target, RowGradients)
        (gradient,) = self.pool.gradient_target.parts
        dense = torch.zeros_like(self.table)
        dense[gradient.slots] = gradient.rows
        return dense[slots]

    def optimize(self) -> None:
        self.values_optimizer.merge()
        self.values_optimizer.step(learning_rate=LEARNING_RATE, gradient_scale=1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def close(self) -> None:
        self._end_group()


class _PlainModule(nn.Module):
    """Our layer's formula in plain torch: k * k search, softmax, embedding_bag, gate,
    projection."""

    def __init__(self, shape: LayerShape, device: torch.device, *, sparse: bool) -> None:
        super().__init__()
        self.shape, self.sparse = shape, sparse
        self.query = nn.Linear(shape.width, shape.num_heads * shape.key_dim, device="meta")
        self.half_keys = nn.Parameter(torch.empty(0, device="meta"))
        self.gate = nn.Linear(shape.width, shape.value_dim, device="meta")
        self.output = nn.Linear(shape.value_dim, shape.width, device="meta")
        for name, value in layer_weights(shape, device).items():
            owner, _, own_name = name.rpartition(".")
            setattr(self.get_submodule(owner), own_name, nn.Parameter(value))
        self.values = nn.Parameter(value_table(shape.num_slots, shape.value_dim, device))

    def forward(self, hidden: Tensor) -> Tensor:
        s = self.shape
        slots, scores = square_search(self.query(hidden).view(-1, s.num_heads, s.key_dim), self.half_keys, s.top_k)
        weights = scores.softmax(dim=-1).flatten(1)
        values = F.embedding_bag(
            slots.flatten(1), self.values, per_sample_weights=weights, mode="sum", sparse=self.sparse
        )
        return self.output(values * F.silu(self.gate(hidden)))


class EmbeddingBagLayer(_SameFormula):
    """The plain module with one of torch's two ways to train the table."""

    def __init__(self, *, device: torch.device, gradient: Literal["dense", "sparse"], **shape: int) -> None:
        super().__init__(device=device, **shape)
        plain = _PlainModule(self.shape, device, sparse=gradient == "sparse")
        self.module, self.table = plain, plain.values
        if gradient == "dense":
            self.optimizers: list[torch.optim.Optimizer] = [adamw(plain.parameters())]
        else:
            rest = [parameter for name, parameter in plain.named_parameters() if name != "values"]
            rows = torch.optim.SparseAdam([plain.values], lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)
            self.optimizers = [adamw(rest), rows]

    def table_gradient(self, slots: Tensor) -> Tensor:
        assert self.table.grad is not None
        gradient = self.table.grad
        return (gradient.to_dense() if gradient.is_sparse else gradient)[slots]

    def optimize(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def same_step(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Outputs and gradients to tolerance, and the step of the rows where Adam does not divide
    one rounding error by another."""
    wrong = []
    for name in theirs:
        if name != "step of the rows":
            wrong += far_apart(name, ours[name], theirs[name], share=TIED)
    gradient = theirs["gradient of the rows"]
    clear = gradient.abs() > 1e-3 * gradient.square().mean().sqrt()
    steps = (side["step of the rows"].where(clear, 0) for side in (ours, theirs))
    return wrong + far_apart("step of the rows", *steps, tolerance=1e-2, share=TIED)
