"""Control: slots ranked by their share of the batch's accesses alone (Lin et al. 2025, figure 6,
"no reranking")."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(ranking="tf")

SPACES = {
    "laptop": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([0.5, 2.0, 5.0])}],
    "controls": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([0.5, 2.0, 5.0, 10.0])}],
    "smoke": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0])}],
    "wiki": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([0.5, 2.0, 5.0, 10.0])}],
}
