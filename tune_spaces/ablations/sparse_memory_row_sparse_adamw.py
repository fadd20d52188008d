"""Control: the same slots moved by AdamW whose moments belong to the selected rows, so that nothing
leaks: adaptive steps without the momentum of rows that have left the selection."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import OptimizerConfig
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(optimizer=OptimizerConfig(kind="row_sparse_adamw", learning_rate=1e-2))

SPACES = {
    "laptop": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([3e-3, 6e-3, 1e-2, 2e-2])}],
    "controls": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([3e-3, 6e-3, 1e-2, 2e-2])}],
    "smoke": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([1e-2])}],
    "wiki": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([3e-3, 6e-3, 1e-2, 2e-2])}],
}
