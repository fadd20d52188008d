"""Ablation: what slots are ranked against, pretraining text, the facts to learn or held-out questions (Lin et al. 2025, figure 7)."""

from ray import tune

from memlm.methods.config import SparseMemoryConfig

BASE = SparseMemoryConfig()

SPACES = {
    "laptop": [
        {
            "num_trainable_slots": 500,
            "background": tune.grid_search(["corpus", "facts", "held_out"]),
            "optimizer.learning_rate": tune.grid_search([5.0, 10.0]),
        }
    ],
    "wiki": [
        {
            "num_trainable_slots": tune.grid_search([25, 500]),
            "background": tune.grid_search(["corpus", "facts", "held_out"]),
            "optimizer.learning_rate": tune.grid_search([2.0, 5.0, 10.0]),
        }
    ],
    "smoke": [{"background": tune.grid_search(["facts", "held_out"])}],
}
