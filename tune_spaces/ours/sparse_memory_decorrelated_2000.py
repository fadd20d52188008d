"""Ours: the 2,000 rows that a fact reads most, moved so that background text changes least."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig

BASE = SparseMemoryDecorrelatedConfig(num_trainable_slots=2000)

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([10.0, 20.0, 40.0, 80.0, 120.0, 160.0])}],
    "laptop_rule": [{"optimizer.learning_rate": grid([10.0, 20.0, 40.0, 80.0, 160.0])}],
    # The pool of smoke has 1,024 slots.
    "smoke": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([20.0, 80.0])}],
    "wiki": [{"optimizer.learning_rate": grid([10.0, 20.0, 40.0, 80.0, 160.0])}],
    "wiki_rule": [{"optimizer.learning_rate": grid([10.0, 20.0, 40.0, 80.0, 160.0])}],
    "documents": [{"optimizer.learning_rate": grid([10.0, 40.0, 160.0])}],
    # Values start at zero behind a gate of 1, so rates are high (docs/your-own-model.md).
    "smollm2": [{"optimizer.learning_rate": 80_000.0}],
    "smollm2_tuning": [{"optimizer.learning_rate": grid([40_000.0, 80_000.0, 160_000.0])}],
}
