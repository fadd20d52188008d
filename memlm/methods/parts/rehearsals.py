"""The kinds of rehearsal, by their names in a method's settings."""

from memlm.methods.parts.distillation import Distillation
from memlm.methods.parts.rehearsal import Rehearsal
from memlm.methods.parts.replay import Replay

REHEARSALS: dict[str, type[Rehearsal]] = {"replay": Replay, "distillation": Distillation}
