"""LoRA: low-rank adapters beside frozen matrices, by PEFT, merged into them at the end."""

import peft
import torch
from torch import nn

from memlm.methods.config import LoRAConfig
from memlm.methods.method import FixedParametersMethod

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]


class LoRA(FixedParametersMethod):
    def __init__(self, model: nn.Module, config: LoRAConfig, *, seed: int) -> None:
        adapters = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # any positive number scales; PEFT's hint says int
            lora_dropout=0.0,
            target_modules=ATTENTION if config.target == "attention" else ATTENTION + FEED_FORWARD,
            task_type=peft.TaskType.CAUSAL_LM,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, adapters)  # type: ignore[arg-type]
        super().__init__(adapted, config.optimizer)

    def finish(self) -> nn.Module:
        return self.model.merge_and_unload()  # type: ignore[operator]
