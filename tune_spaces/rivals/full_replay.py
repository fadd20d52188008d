"""Rival: full finetuning with background text replayed in every step (Robins 1995)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import RehearsalConfig
from memlm.methods.full import FullConfig

BASE = FullConfig(rehearsal=RehearsalConfig(kind="replay"))

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([2e-5, 5e-5])}],
    "wiki": [{"optimizer.learning_rate": grid([3e-5, 8e-5])}],
    "smoke": [{"optimizer.learning_rate": grid([5e-5])}],
}
