"""From a method's config to the method."""

from collections.abc import Sequence

from torch import nn

from memlm.data.questions.records import Fact
from memlm.methods.config import MethodConfig
from memlm.methods.method import LearningInputs, Method
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.model.reader.trunk_cache import NO_TRUNKS, TrunkCache
from memlm.slots.counts import BackgroundCounts


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
    inputs = LearningInputs(background=background, seed=seed, facts=facts, text=text, trunks=trunks)
    return config.build(model, inputs)
