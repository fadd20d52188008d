"""The kinds of rehearsal, by their names in a method's settings."""

from torch import nn

from memlm.methods.config import RehearsalConfig
from memlm.methods.parts.anchoring import Anchor
from memlm.methods.parts.distillation import Distillation
from memlm.methods.parts.rehearsal import BackgroundText, Rehearsal
from memlm.methods.parts.replay import Replay


def build_rehearsal(config: RehearsalConfig, model: nn.Module, text: BackgroundText | None, *, seed: int) -> Rehearsal:
    """The rehearsal of a kind other than none, for the model before its first step."""
    if config.kind == "l2_sp":
        return Anchor(model, config)
    assert text is not None, "checked by FixedParametersMethod.rehearse"
    if config.kind == "ewc":
        return Anchor.by_fisher(model, text, config, seed=seed)
    return {"replay": Replay, "distillation": Distillation}[config.kind](model, text, config, seed=seed)
