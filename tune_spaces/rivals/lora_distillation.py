"""Rival: LoRA with the divergence from the original model on background text in the loss (Li and
Hoiem 2016)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import RehearsalConfig
from memlm.methods.lora import LoRAConfig

BASE = LoRAConfig(rehearsal=RehearsalConfig(kind="distillation"))

SPACES = {
    "laptop": [
        {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([2e-4, 5e-4])},
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([1e-4, 2e-4])},
    ],
    "laptop_wide": [
        {
            "rank": 64,
            "alpha": 64.0,
            "optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4, 4e-4]),
            "rehearsal.weight": grid([0.3, 1.0, 3.0]),
        }
    ],
    "wiki": [{"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([6e-5, 1e-4, 1.4e-4, 2e-4])}],
    "wiki_wide": [
        {
            "rank": 64,
            "alpha": 64.0,
            "optimizer.learning_rate": grid([6e-5, 1e-4, 1.4e-4, 2e-4]),
            "rehearsal.weight": grid([0.3, 1.0, 3.0]),
        }
    ],
    "controls": [{"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4, 4e-4])}],
    "smoke": [{"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([5e-5])}],
}
