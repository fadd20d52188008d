"""Ablation: the text that slots are ranked against, pretraining text, the facts to learn or
held-out questions (Lin et al. 2025, figure 7)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig()

SPACES = {
    "laptop": [
        {
            "num_trainable_slots": 500,
            "background": grid(["corpus", "facts", "held_out"]),
            "optimizer.learning_rate": grid([5.0, 10.0]),
        }
    ],
    "wiki": [
        {
            "num_trainable_slots": grid([25, 500]),
            "background": grid(["corpus", "facts", "held_out"]),
            "optimizer.learning_rate": grid([2.0, 5.0, 10.0]),
        }
    ],
    "smoke": [{"background": grid(["facts", "held_out"])}],
}
