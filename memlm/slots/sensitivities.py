"""How sensitive a model's loss is to what background tokens read: by token, and by direction of the
output.

g is the gradient of the loss at the output of one read (read_gradients.py), with labels drawn from
the model itself, so that E[g g'] is the Fisher information. A small change d of the output costs
g' d squared, half of it, in nats of divergence from the model as it was. So a token matters by the
square of its g, and a direction by its place in H = E[g g'].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sensitivities:
    """Those of background reads (reads.py), on the CPU. Two samples merge by addition."""

    of_rows: Float[Tensor, " rows"]
    """|g|^2 of each row of the reads, a token in one memory layer; fp32."""
    of_outputs: Float[Tensor, "pools value_dim value_dim"]
    """The sum of g g' over the rows that read each pool; fp64."""

    @staticmethod
    def of_batch(
        gradients: Float[Tensor, "batch seq layers value_dim"],
        is_token: Bool[Tensor, "batch seq"],
        *,
        pools: Sequence[int],
    ) -> "Sensitivities":
        """Those of a micro-batch's tokens, without pads. `pools` is the number of each layer's
        pool."""
        of_tokens = gradients[is_token].double().cpu()
        of_outputs = of_tokens.new_zeros(max(pools) + 1, gradients.shape[-1], gradients.shape[-1])
        for layer, pool in enumerate(pools):
            of_outputs[pool] += of_tokens[:, layer].T @ of_tokens[:, layer]
        return Sensitivities(of_rows=of_tokens.square().sum(-1).flatten().float(), of_outputs=of_outputs)

    def __add__(self, other: "Sensitivities") -> "Sensitivities":
        return Sensitivities(
            of_rows=torch.cat([self.of_rows, other.of_rows]), of_outputs=self.of_outputs + other.of_outputs
        )

    def weights_of_rows(self, exponent: float) -> Float[Tensor, " rows"]:
        """|g|^2 to a power, divided by its mean over all rows; fp32. Raises ValueError if the mean
        is 0."""
        powers = self.of_rows.double().pow(exponent)
        mean = float(powers.mean()) if len(powers) else 0.0
        if not 0 < mean < math.inf:
            raise ValueError(
                f"the mean sensitivity of {len(powers)} background reads is {mean}; it must be above 0 and finite; "
                "check that the checkpoint's loss is finite, and raise counting.read_tokens"
            )
        return (powers / mean).float()

    def damping(self, pool: int, halved_at: float) -> Float[Tensor, "value_dim value_dim"]:
        """M = (I + H / (halved_at * m))^-1 of a pool, m the mean of H's diagonal; fp32. Raises
        ValueError if m is 0."""
        outputs = self.of_outputs[pool]
        mean = float(outputs.diagonal().mean())
        if not 0 < mean < math.inf:
            raise ValueError(
                f"the mean sensitivity of the outputs of pool {pool} is {mean}; it must be above 0 and finite; "
                "check that the checkpoint's loss is finite, and raise counting.read_tokens"
            )
        matrix = outputs / (halved_at * mean)
        matrix.diagonal().add_(1)
        return torch.linalg.inv(matrix).float()
