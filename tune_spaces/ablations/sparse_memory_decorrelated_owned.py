"""Ours: decorrelated, where no fact moves a row that an earlier fact moved, so that undoing one
fact leaves every row of the others as it is."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig

BASE = SparseMemoryDecorrelatedConfig(owned_rows=True)

RATES = grid([80.0, 160.0, 320.0])
SPACES = {
    "laptop": [{"num_trainable_slots": grid([0, 100]), "optimizer.learning_rate": RATES}],
    "controls": [{"optimizer.learning_rate": grid([40.0, 80.0, 160.0, 320.0])}],
    "smoke": [{"optimizer.learning_rate": 80.0}],
    "wiki": [{"num_trainable_slots": grid([0, 100]), "optimizer.learning_rate": RATES}],
}
