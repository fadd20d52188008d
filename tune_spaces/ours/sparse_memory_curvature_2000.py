"""Ours: the 2,000 rows that a fact reads most, moved so that the model's loss on background text
changes least."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory_curvature import SparseMemoryCurvatureConfig

BASE = SparseMemoryCurvatureConfig(num_trainable_slots=2000)

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([20.0, 40.0, 60.0, 80.0, 120.0, 160.0])}],
    "laptop_rule": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0, 320.0])}],
    # The pool of smoke has 1,024 slots.
    "smoke": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([20.0, 80.0])}],
    "wiki": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0, 320.0])}],
    "wiki_rule": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0, 320.0])}],
}
