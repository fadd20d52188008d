"""Ours: every slot's rate is divided by how much background text reads it."""

from ray import tune

from memlm.methods.config import SparseMemoryConfig

BASE = SparseMemoryConfig(protection=1.0)

SPACES = {
    "laptop": [
        {
            "num_trainable_slots": 500,
            "protection": tune.grid_search([1.0, 10.0]),
            "optimizer.learning_rate": tune.grid_search([2.0, 5.0, 10.0]),
        }
    ],
    "smoke": [
        {
            "num_trainable_slots": 500,
            "protection": tune.grid_search([1.0, 10.0]),
            "optimizer.learning_rate": tune.grid_search([2.0]),
        }
    ],
    "wiki": [
        {
            "num_trainable_slots": 500,
            "protection": tune.grid_search([1.0, 10.0]),
            "optimizer.learning_rate": tune.grid_search([2.0, 5.0, 10.0]),
        }
    ],
}
