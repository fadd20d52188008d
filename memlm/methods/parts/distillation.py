"""Self-distillation: on pretraining text the learning model is kept close to the original model's
predictions (Li and Hoiem 2016).

The teacher is the model before the first step and never moves; a teacher that is learning itself
drifts along (arXiv 2607.11020).
"""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn

from memlm.methods.config import RehearsalConfig
from memlm.methods.parts.rehearsal import BackgroundText, TextRehearsal


class Distillation(TextRehearsal):
    def __init__(self, model: nn.Module, text: BackgroundText, config: RehearsalConfig, *, seed: int) -> None:
        super().__init__(model, text, config, seed=seed)
        # Without its adapters a PEFT model is the original; where its own weights move, a copy is.
        self.teacher = None if isinstance(model, PeftModel) else copy.deepcopy(model).requires_grad_(False).eval()

    def loss(self, tokens: Int[Tensor, "blocks seq"], predicted: Bool[Tensor, "blocks predicted"]) -> Float[Tensor, ""]:
        """KL(original || learning), mean over the predicted tokens."""
        original = self._original_logits(tokens)[predicted].log_softmax(dim=-1)
        learning = self.logits(self.model, tokens)[predicted].log_softmax(dim=-1)
        return F.kl_div(learning, original, log_target=True, reduction="batchmean")

    @torch.no_grad()
    def _original_logits(self, tokens: Int[Tensor, "blocks seq"]) -> Float[Tensor, "blocks predicted vocab"]:
        if self.teacher is not None:
            return self.logits(self.teacher, tokens)
        assert isinstance(self.model, PeftModel)
        with self.model.disable_adapter():
            return self.logits(self.model, tokens)
