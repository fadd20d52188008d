"""Ours: slots ranked by the norm of their gradient times their inverse document frequency."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(ranking="gradient")

SPACES = {
    "laptop": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([1.0, 2.0, 5.0])}],
    "controls": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([1.0, 2.0, 5.0, 10.0])}],
    "smoke": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0])}],
    "wiki": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([0.5, 2.0, 5.0, 10.0])}],
}
