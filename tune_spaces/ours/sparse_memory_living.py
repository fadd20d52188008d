"""Ours: the slots of learned facts join the background, so later facts spare earlier ones."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(living_background=1)

SPACES = {
    "laptop": [
        {
            "num_trainable_slots": 500,
            "living_background": grid([16, 64]),
            "optimizer.learning_rate": grid([5.0, 10.0, 20.0]),
        }
    ],
    "controls": [
        {"num_trainable_slots": 500, "living_background": 16, "optimizer.learning_rate": grid([5.0, 10.0, 20.0])},
        {"num_trainable_slots": 500, "living_background": 64, "optimizer.learning_rate": 10.0},
    ],
    "smoke": [
        {
            "num_trainable_slots": 500,
            "living_background": grid([1, 4]),
            "optimizer.learning_rate": grid([2.0]),
        }
    ],
    "wiki": [
        {
            "num_trainable_slots": 500,
            "living_background": grid([32, 250]),
            "optimizer.learning_rate": grid([5.0, 10.0, 20.0]),
        }
    ],
}
