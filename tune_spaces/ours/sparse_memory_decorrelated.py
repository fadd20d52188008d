"""Ours: all rows that a fact reads, moved so that background text changes least."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig

BASE = SparseMemoryDecorrelatedConfig()

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([10.0, 20.0, 40.0, 80.0, 120.0, 160.0])}],
    "laptop_rule": [{"optimizer.learning_rate": grid([10.0, 20.0, 40.0, 80.0, 160.0])}],
    "laptop_scratch": [{"optimizer.learning_rate": grid([40.0, 80.0, 160.0])}],
    # A memory that was added has other scales: its values start at zero, or are trained anew.
    "laptop_retrofit": [{"optimizer.learning_rate": grid([20.0, 80.0, 320.0, 640.0])}],
    # One setting, chosen at 100 facts.
    "saturation": [{"optimizer.learning_rate": 80.0}],
    "pools": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0])}],
    "controls": [{"optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0])}],
    "smoke": [{"optimizer.learning_rate": grid([20.0, 80.0])}],
    "wiki": [{"optimizer.learning_rate": grid([10.0, 20.0, 40.0, 80.0, 160.0])}],
}
