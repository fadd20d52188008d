"""The weighted read alone, in training: forward, backward to rows and weights, and SGD on the
rows that were read."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from memlm.model.weighted_read import RowGradients
from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.inputs import compared_slots, output_gradient, read_weights, uniform_reads, value_table
from tests.benchmarks.measure import far_apart


class _Read(Contender):
    def __init__(
        self,
        *,
        device: torch.device,
        num_tokens: int,
        num_heads: int,
        top_k: int,
        num_slots: int,
        value_dim: int,
        learning_rate: float,
    ) -> None:
        self.device, self.learning_rate = device, learning_rate
        self.table = value_table(num_slots, value_dim, device)
        self.slots = uniform_reads(num_tokens, num_heads * top_k, num_slots, device)
        self.weights = read_weights(num_tokens, num_heads, top_k, device).requires_grad_(True)
        self.gradient = output_gradient(num_tokens, value_dim, device)

    @abstractmethod
    def step(self) -> Tensor:
        """Take a step. Returns the output; the table has moved and the weights have a gradient."""

    def repeat(self, clock: Clock) -> None:
        with clock:
            self.step()
            self.weights.grad = None

    def outputs(self) -> dict[str, Tensor]:
        compared = compared_slots(len(self.table), self.device)
        before = self.table.detach()[compared].clone()
        output = self.step().detach()
        assert self.weights.grad is not None
        gradient, self.weights.grad = self.weights.grad, None
        step = self.table.detach()[compared] - before
        return {"output": output, "gradient of the weights": gradient, "step of the rows": step}


class OurRead(_Read):
    def step(self) -> Tensor:
        gradients = RowGradients()
        output = gradients.read(self.table, self.slots, self.weights)
        output.backward(self.gradient)
        (rows,) = gradients.parts
        self.table.index_add_(0, rows.slots, rows.rows, alpha=-self.learning_rate)
        return output


class EmbeddingBagRead(_Read):
    """torch's own, with a dense gradient and SGD over all rows: the plain definition."""

    def step(self) -> Tensor:
        self.table.requires_grad_(True)
        output = F.embedding_bag(self.slots, self.table, per_sample_weights=self.weights, mode="sum")
        output.backward(self.gradient)
        with torch.no_grad():
            assert self.table.grad is not None
            self.table.add_(self.table.grad, alpha=-self.learning_rate)
        self.table.grad = None
        return output


def same_read(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    return [sentence for name in theirs for sentence in far_apart(name, ours[name], theirs[name])]
