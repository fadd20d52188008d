"""The first decorrelated step on a fact's rows: from background reads to the rows' change. Ours,
by a Cholesky factor of their block of C, and two ways that never form or factor it whole."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memlm.methods.parts.decorrelated_finetuning import MAX_INVERSE
from memlm.slots.counts import count_slots
from memlm.slots.decorrelation import Decorrelation, inverse, solve
from memlm.slots.reads import BackgroundReads
from memlm.slots.selection import select_slots
from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.inputs import LayerShape, output_gradient, popular_reads, read_weights

HALVED_AT_TOKENS = 4000
FACT_TOKENS = 1536
"""Tokens of a fact's statements: 64 of 24 tokens."""
RELATIVE_RESIDUAL = 1e-5
MOST_ROUNDS = 1000
SMALLEST = 0.1
"""Eigenvalue of C / lambda up to which a direction moves as by SGD."""


class _FirstStep(Contender):
    def __init__(
        self, *, device: torch.device, num_trainable_slots: int, background_tokens: int, layer: Mapping[str, int]
    ) -> None:
        self.shape, self.device = LayerShape(**layer), device
        cpu = torch.device("cpu")
        s = self.shape
        reads = BackgroundReads(
            slots=popular_reads(s, background_tokens, seed=20).int(),
            weights=read_weights(background_tokens, s.num_heads, s.top_k, cpu),
            num_tokens=background_tokens,
            num_slots=s.num_slots,
        )
        self.decorrelation = Decorrelation(reads, HALVED_AT_TOKENS)
        fact = popular_reads(s, FACT_TOKENS, seed=21)[None]
        counts = count_slots(fact, torch.ones(fact.shape[:2], dtype=torch.bool))
        chosen: Int[Tensor, " rows"] = select_slots(counts, counts.counts.double(), num_trainable_slots)
        self.slots = chosen.to(device)
        self.gradient = output_gradient(len(self.slots), s.value_dim, device)

    @abstractmethod
    def step(self) -> Float[Tensor, "rows value_dim"]: ...

    def repeat(self, clock: Clock) -> None:
        with clock:
            self.step()

    def outputs(self) -> dict[str, Tensor]:
        return {"chosen": self.slots, "step": self.step()}


class Factor(_FirstStep):
    """As the method does it."""

    def step(self) -> Float[Tensor, "rows value_dim"]:
        factor = self.decorrelation.factor(self.slots)
        if len(self.slots) <= MAX_INVERSE:
            return inverse(factor) @ self.gradient
        return solve(factor, self.gradient)


class KeptFactor(Factor):
    """A later pass, with what the first one kept."""

    def __init__(
        self, *, device: torch.device, num_trainable_slots: int, background_tokens: int, layer: Mapping[str, int]
    ) -> None:
        super().__init__(
            device=device, num_trainable_slots=num_trainable_slots, background_tokens=background_tokens, layer=layer
        )
        factor = self.decorrelation.factor(self.slots)
        self.is_inverse = len(self.slots) <= MAX_INVERSE
        self.kept = inverse(factor) if self.is_inverse else factor

    def step(self) -> Float[Tensor, "rows value_dim"]:
        return self.kept @ self.gradient if self.is_inverse else solve(self.kept, self.gradient)


class ConjugateGradients(_FirstStep):
    """Preconditioned by the diagonal, with C applied as two products with the sparse reads."""

    def step(self) -> Float[Tensor, "rows value_dim"]:
        by_slot, scale = (
            self.decorrelation.reads.by_slot,
            self.decorrelation.reads.num_tokens * self.decorrelation.damping,
        )
        rows, weights, starts = (part.to(self.device) for part in by_slot.columns(self.slots.cpu()))
        shape = (len(self.slots), by_slot.num_rows)
        slots_first = torch.sparse_csr_tensor(starts, rows.long(), weights, size=shape, check_invariants=False)
        tokens_first = slots_first.to_sparse_coo().T.to_sparse_csr()
        squares = torch.zeros(len(self.slots), device=self.device)
        squares.index_add_(0, torch.repeat_interleave(starts.diff()), weights.square())
        diagonal = (1 + squares / scale)[:, None]

        step, residual = torch.zeros_like(self.gradient), self.gradient.clone()
        direction = preconditioned = residual / diagonal
        product, wanted = (residual * preconditioned).sum(0), RELATIVE_RESIDUAL * self.gradient.norm(dim=0)
        for _ in range(MOST_ROUNDS):
            moved = direction + slots_first @ (tokens_first @ direction) / scale
            rate = product / (direction * moved).sum(0)
            step, residual = step + rate * direction, residual - rate * moved
            if bool((residual.norm(dim=0) <= wanted).all()):
                return step
            preconditioned = residual / diagonal
            product, before = (residual * preconditioned).sum(0), product
            direction = preconditioned + product / before * direction
        raise ValueError(f"no convergence in {MOST_ROUNDS} rounds")


class Eigenvectors(_FirstStep):
    """In the directions of C's larger eigenvalues alone; others move as by SGD."""

    def step(self) -> Float[Tensor, "rows value_dim"]:
        reads, damping = self.decorrelation.reads, self.decorrelation.damping
        block = (reads.second_moment(self.slots.cpu()) / damping).float().to(self.device)
        values, vectors = torch.linalg.eigh(block)
        kept = values > SMALLEST
        values, vectors = values[kept][:, None], vectors[:, kept]
        return self.gradient - vectors @ (values / (1 + values) * (vectors.T @ self.gradient))
