"""Control: every slot that the batch reads moves (Lin et al. 2025, figure 6, "all values")."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(num_trainable_slots=0)

SPACES = {
    "laptop": [{"num_trainable_slots": 0, "optimizer.learning_rate": grid([0.5, 2.0, 5.0])}],
    "controls": [{"optimizer.learning_rate": grid([0.5, 2.0, 5.0, 10.0])}],
    "smoke": [{"num_trainable_slots": 0, "optimizer.learning_rate": grid([2.0])}],
    "wiki": [{"num_trainable_slots": 0, "optimizer.learning_rate": grid([0.5, 2.0, 5.0, 10.0])}],
}
