"""Rival: full finetuning with the divergence from the original model on background text in the loss (Li and Hoiem 2016)."""

from ray import tune

from memlm.methods.config import FullConfig, RehearsalConfig

BASE = FullConfig(rehearsal=RehearsalConfig(kind="distillation"))

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
