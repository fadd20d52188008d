"""Ours: every slot's rate is divided by how much background text reads it."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(num_trainable_slots=0, protection=30.0)

SPACES = {
    "laptop": [{"protection": 100.0, "optimizer.learning_rate": grid([100.0, 200.0, 400.0])}],
    "controls": [{"protection": 100.0, "optimizer.learning_rate": grid([50.0, 100.0, 200.0, 400.0])}],
    "smoke": [{"optimizer.learning_rate": 50.0}],
    "wiki": [
        {"protection": 1000.0, "optimizer.learning_rate": grid([250.0, 700.0, 1500.0, 2500.0])},
        {"protection": 100.0, "optimizer.learning_rate": grid([200.0, 400.0])},
    ],
}
