"""Rival: full finetuning with elastic weight consolidation on the background text (Kirkpatrick et
al. 2017)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import OptimizerConfig, RehearsalConfig
from memlm.methods.full import FullConfig

# Weight decay would pull towards 0, and not towards the start.
BASE = FullConfig(optimizer=OptimizerConfig(learning_rate=5e-5), rehearsal=RehearsalConfig(kind="ewc", weight=100.0))

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([5e-5, 1e-4]), "rehearsal.weight": grid([100.0, 1000.0])}],
    "laptop_wide": [
        {
            "optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4]),
            "rehearsal.weight": grid([100.0, 1000.0, 3000.0, 10000.0]),
        }
    ],
    "controls": [{"optimizer.learning_rate": grid([5e-5, 1e-4]), "rehearsal.weight": grid([100.0, 1000.0])}],
    "smoke": [{"optimizer.learning_rate": 5e-4, "rehearsal.weight": grid([1.0, 1000.0])}],
    "wiki": [{"optimizer.learning_rate": grid([5e-5, 8e-5]), "rehearsal.weight": grid([100.0, 1000.0])}],
    "wiki_wide": [
        {
            "optimizer.learning_rate": grid([5e-5, 8e-5, 1.5e-4]),
            "rehearsal.weight": grid([100.0, 1000.0, 3000.0, 10000.0]),
        }
    ],
}
