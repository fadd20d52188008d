"""From a method's config to the method."""

from collections.abc import Sequence

from torch import nn

from memlm.data.questions.records import Fact
from memlm.methods.config import MethodConfig
from memlm.methods.method import LearningInputs, Method
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.model.reader import Recording
from memlm.slots.counts import BackgroundCounts


def build_method(
    config: MethodConfig,
    model: nn.Module,
    *,
    background: BackgroundCounts | None,
    seed: int,
    facts: Sequence[Fact] = (),
    text: BackgroundText | None = None,
    recording: Recording | None = None,
) -> Method:
    inputs = LearningInputs(background=background, seed=seed, facts=facts, text=text, recording=recording)
    return config.build(model, inputs)
