"""Rival: full finetuning with background text replayed in every step (Robins 1995)."""

from ray import tune

from memlm.methods.config import FullConfig, RehearsalConfig

BASE = FullConfig(rehearsal=RehearsalConfig(kind="replay"))

SPACES = {
    "laptop": [{"optimizer.learning_rate": tune.grid_search([2e-5, 5e-5])}],
    "wiki": [
        {
            "rehearsal.weight": tune.grid_search([1.0, 4.0]),
            "optimizer.learning_rate": tune.grid_search([1.5e-5, 5e-5, 1e-4]),
        }
    ],
    "smoke": [{"optimizer.learning_rate": tune.grid_search([5e-5])}],
}
