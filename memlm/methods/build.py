"""From a method's config to the method."""

from collections.abc import Sequence

from torch import nn

from memlm.data.questions.facts import Fact
from memlm.methods.config import (
    FullConfig,
    InContextConfig,
    LoRAConfig,
    MethodConfig,
    RehearsalConfig,
    RetrievalConfig,
    SparseMemoryConfig,
)
from memlm.methods.full import FullFinetuning
from memlm.methods.in_context import InContext
from memlm.methods.lora import LoRA
from memlm.methods.method import FixedParametersMethod, Method
from memlm.methods.parts.distillation import Distillation
from memlm.methods.parts.rehearsal import BackgroundText, Rehearsal
from memlm.methods.parts.replay import Replay
from memlm.methods.retrieval import Retrieval
from memlm.methods.sparse_memory import SparseMemoryFinetuning
from memlm.model.reader.trunk_cache import NO_TRUNKS, TrunkCache
from memlm.slots.counts import BackgroundCounts

REHEARSALS: dict[str, type[Rehearsal]] = {"replay": Replay, "distillation": Distillation}


def build_method(
    config: MethodConfig,
    model: nn.Module,
    *,
    background: BackgroundCounts | None,
    seed: int,
    facts: Sequence[Fact] = (),
    text: BackgroundText | None = None,
    trunks: TrunkCache = NO_TRUNKS,
) -> Method:
    """`facts` are those of the stream, for methods that look them up; `text` is pretraining
    text, for those that rehearse it. `trunks` is what is known of the base model's trunk; a
    method that moves more than the values has no use for it."""
    match config:
        case SparseMemoryConfig():
            if background is None:
                raise ValueError(
                    f"method {config.name} ranks slots against background counts, and there are none; run pipelines/count_accesses.py"
                )
            return SparseMemoryFinetuning(model, config, background, seed=seed, trunks=trunks)
        case LoRAConfig():
            return _rehearsing(LoRA(model, config, seed=seed), config.rehearsal, text, seed=seed)
        case FullConfig():
            return _rehearsing(FullFinetuning(model, config), config.rehearsal, text, seed=seed)
        case InContextConfig():
            return InContext(model, config, facts)
        case RetrievalConfig():
            return Retrieval(model, config, facts)


def _rehearsing(
    method: FixedParametersMethod, config: RehearsalConfig, text: BackgroundText | None, *, seed: int
) -> Method:
    if config.kind != "none":
        if text is None:
            raise ValueError(
                f"method.rehearsal.kind is {config.kind}, and there is no background text; give the corpus's blocks"
            )
        method.rehearsal = REHEARSALS[config.kind](method.model, text, config, seed=seed)
    return method
