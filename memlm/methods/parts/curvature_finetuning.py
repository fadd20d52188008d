"""Sparse memory finetuning by curvature, ours: the decorrelated step, with background text weighted
by how sensitive the model's loss is to what it reads (slots/sensitivities.py).

dV_T = -rate (I + C_TT / lambda)^-1 G_T M, with C = E[s^p w w'] / E[s^p], s = |g|^2 and
M = (I + H / (mu m))^-1

A step moves the output at a background token by d, which costs g' d squared. On average over tokens
that is the trace of dV' C dV H, if the tokens' reads and gradients are independent given s: the
Kronecker factors of K-FAC (Martens & Grosse 2015, arXiv 1503.05671). Each side is damped by itself,
so a step is the decorrelated one with one more small product. Lambda follows from the weighted
reads, whose mean weight is 1.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.methods.method import LearningInputs
from memlm.methods.parts.decorrelated_finetuning import DecorrelatedFinetuning
from memlm.methods.sparse_memory_curvature import SparseMemoryCurvatureConfig
from memlm.model.memory import ValuePool


class CurvatureFinetuning(DecorrelatedFinetuning):
    def __init__(self, model: nn.Module, config: SparseMemoryCurvatureConfig, inputs: LearningInputs) -> None:
        assert inputs.reads is not None
        weighted = inputs.reads.weighted(config.sensitivity_exponent)
        super().__init__(model, config, replace(inputs, reads=weighted))
        self.dampings: dict[ValuePool, Float[Tensor, "value_dim value_dim"]] = {}
        """M of each pool; empty for the identity."""
        if config.halved_at_sensitivity:
            assert weighted.sensitivities is not None
            for number, pool in enumerate(self.pools):
                damping = weighted.sensitivities.damping(number, config.halved_at_sensitivity)
                self.dampings[pool] = damping.to(pool.weight.device)

    @torch.no_grad()
    def _write(self, pool: ValuePool, slots: Int[Tensor, " rows"], step: Float[Tensor, "rows value_dim"]) -> None:
        super()._write(pool, slots, step @ self.dampings[pool] if self.dampings else step)
