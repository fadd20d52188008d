"""Rival: full finetuning whose learned change is scaled down at the end (WiSE-FT, Wortsman et al.
2022)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.full import FullConfig

BASE = FullConfig(update_scale=0.5)

SCALES = grid([0.3, 0.5, 0.7, 0.9])

SPACES = {
    "laptop": [{"optimizer.learning_rate": 1e-4, "update_scale": SCALES}],
    "laptop_wide": [
        {"optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4]), "update_scale": SCALES},
    ],
    "controls": [{"optimizer.learning_rate": 1e-4, "update_scale": SCALES}],
    "smoke": [{"optimizer.learning_rate": 5e-4, "update_scale": grid([0.0, 0.5])}],
    "wiki": [{"optimizer.learning_rate": 8e-5, "update_scale": SCALES}],
    "wiki_wide": [{"optimizer.learning_rate": grid([5e-5, 8e-5, 1.5e-4]), "update_scale": SCALES}],
}
