"""Ablation: the number of trainable slots t at one rate, with TF-IDF and with TF alone (Lin et
al. 2025, figure 6)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig()

SPACES = {
    "laptop": [
        {
            "num_trainable_slots": grid([25, 100, 500]),
            "ranking": grid(["tfidf", "tf"]),
            "optimizer.learning_rate": grid([5.0, 20.0]),
        }
    ],
    "wiki": [
        {
            "num_trainable_slots": grid([25, 50, 100, 200, 500, 1000]),
            "ranking": grid(["tfidf", "tf"]),
            "optimizer.learning_rate": 5.0,
        }
    ],
    "smoke": [{"num_trainable_slots": grid([5, 50]), "optimizer.learning_rate": 5.0}],
}
