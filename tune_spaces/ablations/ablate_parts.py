"""Ablation: half-keys or gates trained in addition to the values, by AdamW."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(trains_also="keys")

SPACES = {
    "laptop": [
        {
            "trains_also": grid(["keys", "gates"]),
            "also_learning_rate": grid([1e-5, 1e-4, 1e-3]),
            "optimizer.learning_rate": grid([5.0, 10.0]),
        }
    ],
    "wiki": [
        {
            "trains_also": grid(["keys", "gates"]),
            "also_learning_rate": grid([1e-5, 1e-4, 1e-3]),
            "optimizer.learning_rate": grid([2.0, 5.0]),
        }
    ],
    "smoke": [{"trains_also": grid(["keys", "gates"]), "optimizer.learning_rate": 5.0}],
}
