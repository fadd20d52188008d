"""Control: the same slots moved by AdamW, whose momentum leaks (Lin et al. 2025, section 5,
"Optimizer")."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import OptimizerConfig
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-3, weight_decay=0.0))

SPACES = {
    "laptop": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([3e-4, 1e-3, 3e-3, 1e-2])}],
    "controls": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([3e-4, 1e-3, 3e-3, 1e-2])}],
    "smoke": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([1e-3])}],
    "wiki": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([3e-4, 1e-3, 3e-3, 1e-2])}],
}
