"""Rival: full finetuning with a penalty on the distance from the start (L2-SP, Li et al. 2018)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import OptimizerConfig, RehearsalConfig
from memlm.methods.full import FullConfig

# Weight decay would pull towards 0, and not towards the start.
BASE = FullConfig(optimizer=OptimizerConfig(learning_rate=5e-5), rehearsal=RehearsalConfig(kind="l2_sp", weight=1.0))

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([5e-5, 1e-4]), "rehearsal.weight": grid([1.0, 3.0])}],
    "laptop_wide": [
        {"optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4]), "rehearsal.weight": grid([0.3, 1.0, 3.0, 10.0])}
    ],
    "controls": [{"optimizer.learning_rate": grid([5e-5, 1e-4]), "rehearsal.weight": grid([1.0, 3.0])}],
    "smoke": [{"optimizer.learning_rate": 5e-4, "rehearsal.weight": grid([0.01, 1.0])}],
    "wiki": [{"optimizer.learning_rate": grid([5e-5, 8e-5]), "rehearsal.weight": grid([1.0, 3.0])}],
    "wiki_wide": [
        {"optimizer.learning_rate": grid([5e-5, 8e-5, 1.5e-4]), "rehearsal.weight": grid([0.3, 1.0, 3.0, 10.0])}
    ],
}
