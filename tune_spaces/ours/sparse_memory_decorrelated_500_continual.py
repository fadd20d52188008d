"""Ours: as sparse_memory_decorrelated_500, with the facts learned before counted as background."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig

BASE = SparseMemoryDecorrelatedConfig(num_trainable_slots=500, continual=1.0)

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0])}],
    "laptop_many_facts": [{"continual": grid([0.1, 1.0]), "optimizer.learning_rate": grid([40.0, 80.0])}],
    "smoke": [{"optimizer.learning_rate": grid([20.0, 80.0])}],
    "wiki": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0])}],
}
