"""From a method's config to the method."""

from torch import nn

from memlm.methods.config import FullConfig, LoRAConfig, MethodConfig, SparseMemoryConfig
from memlm.methods.full import FullFinetuning
from memlm.methods.lora import LoRA
from memlm.methods.method import Method
from memlm.methods.sparse_memory import SparseMemoryFinetuning
from memlm.slots.counts import BackgroundCounts


def build_method(config: MethodConfig, model: nn.Module, *, background: BackgroundCounts | None, seed: int) -> Method:
    match config:
        case SparseMemoryConfig():
            if background is None:
                raise ValueError(
                    f"method {config.name} ranks slots against background counts, and there are none; run pipelines/count_accesses.py"
                )
            return SparseMemoryFinetuning(model, config, background, seed=seed)
        case LoRAConfig():
            return LoRA(model, config, seed=seed)
        case FullConfig():
            return FullFinetuning(model, config)
