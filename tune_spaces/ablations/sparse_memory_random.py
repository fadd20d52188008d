"""Control: any t of the slots that the batch reads."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(ranking="random")

SPACES = {
    "laptop": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0])}],
    "controls": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0])}],
    "smoke": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0])}],
    "wiki": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([0.5, 2.0, 5.0, 10.0])}],
}
