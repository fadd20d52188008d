"""From a method's config to the method."""

from torch import nn

from memlm.methods.config import FullConfig, LoRAConfig, MethodConfig, SparseMemoryConfig
from memlm.methods.full import FullFinetuning
from memlm.methods.lora import LoRA
from memlm.methods.method import Method
from memlm.methods.sparse_memory import SparseMemoryFinetuning
from memlm.model.trunk_cache import NO_TRUNKS, TrunkCache
from memlm.slots.counts import BackgroundCounts


def build_method(
    config: MethodConfig,
    model: nn.Module,
    *,
    background: BackgroundCounts | None,
    seed: int,
    trunks: TrunkCache = NO_TRUNKS,
) -> Method:
    """`trunks` is what is known of the base model's trunk; a method that moves more than the values has no use for it."""
    match config:
        case SparseMemoryConfig():
            if background is None:
                raise ValueError(
                    f"method {config.name} ranks slots against background counts, and there are none; run pipelines/count_accesses.py"
                )
            return SparseMemoryFinetuning(model, config, background, seed=seed, trunks=trunks)
        case LoRAConfig():
            return LoRA(model, config, seed=seed)
        case FullConfig():
            return FullFinetuning(model, config)
