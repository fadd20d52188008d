"""LoRA: low-rank adapters beside frozen matrices, by PEFT, merged into them at the end."""

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
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

    @property
    def learning_model(self) -> nn.Module:
        return self.model.get_base_model()  # type: ignore[operator]

    def finish(self) -> nn.Module:
        # Merging adds to the base's matrices in place, and other trials may be reading them.
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                for parameter in module.get_base_layer().parameters():
                    parameter.data = parameter.data.clone()
        return self.model.merge_and_unload()  # type: ignore[operator]
