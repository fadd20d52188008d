"""Rival: full finetuning with background text replayed in every step (Robins 1995)."""

from ray import tune

from memlm.methods.config import FullConfig, RehearsalConfig

BASE = FullConfig(rehearsal=RehearsalConfig(kind="replay"))

SPACES = {
    "laptop": [{"optimizer.learning_rate": tune.grid_search([2e-5, 5e-5])}],
    "wiki": [{"optimizer.learning_rate": tune.grid_search([3e-5, 8e-5])}],
    "smoke": [{"optimizer.learning_rate": tune.grid_search([5e-5])}],
}
