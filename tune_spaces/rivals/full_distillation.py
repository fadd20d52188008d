"""Rival: full finetuning with the divergence from the original model on background text in the
loss (Li and Hoiem 2016)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import RehearsalConfig
from memlm.methods.full import FullConfig

BASE = FullConfig(rehearsal=RehearsalConfig(kind="distillation"))

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4])}],
    "laptop_wide": [
        {"optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4]), "rehearsal.weight": grid([0.3, 1.0, 3.0])}
    ],
    "wiki": [{"optimizer.learning_rate": grid([3e-5, 4e-5, 5.5e-5, 8e-5])}],
    "wiki_rule": [{"optimizer.learning_rate": grid([3e-5, 4e-5, 5.5e-5, 8e-5, 1.2e-4])}],
    "wiki_wide": [
        {"optimizer.learning_rate": grid([3e-5, 4e-5, 5.5e-5, 8e-5]), "rehearsal.weight": grid([0.3, 1.0, 3.0])}
    ],
    "controls": [{"optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4])}],
    "smoke": [{"optimizer.learning_rate": grid([5e-5])}],
}
