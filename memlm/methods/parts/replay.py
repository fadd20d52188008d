"""Replay: the likelihood of pretraining text joins the loss, as when old data is mixed into new
(Robins 1995)."""

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memlm.methods.parts.rehearsal import TextRehearsal


class Replay(TextRehearsal):
    def loss(self, tokens: Int[Tensor, "blocks seq"], predicted: Bool[Tensor, "blocks predicted"]) -> Float[Tensor, ""]:
        targets = tokens[:, 1:].masked_fill(~predicted, -100)
        return F.cross_entropy(self.logits(self.model, tokens).flatten(0, 1), targets.flatten(), ignore_index=-100)
