"""Ablation: half-keys or gates trained beside the values, by AdamW."""

from ray import tune

from memlm.methods.config import SparseMemoryConfig

BASE = SparseMemoryConfig(trains_also="keys")

SPACES = {
    "laptop": [{"trains_also": tune.grid_search(["keys", "gates"]), "optimizer.learning_rate": 5.0}],
    "wiki": [
        {
            "trains_also": tune.grid_search(["keys", "gates"]),
            "also_learning_rate": tune.grid_search([1e-5, 1e-4]),
            "optimizer.learning_rate": tune.grid_search([2.0, 5.0]),
        }
    ],
    "smoke": [{"trains_also": tune.grid_search(["keys", "gates"]), "optimizer.learning_rate": 5.0}],
}
