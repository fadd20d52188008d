"""Ours: decorrelated, with each token of a learned fact counted as further background."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig

BASE = SparseMemoryDecorrelatedConfig(continual=1.0)

SPACES = {
    "laptop": [{"continual": grid([0.1, 1.0]), "optimizer.learning_rate": grid([40.0, 80.0, 160.0])}],
    "controls": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0])}],
    "smoke": [{"optimizer.learning_rate": 80.0}],
    "wiki": [{"continual": grid([0.1, 1.0]), "optimizer.learning_rate": grid([40.0, 80.0, 160.0])}],
}
