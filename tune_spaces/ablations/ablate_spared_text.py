"""Ablation: the text that the decorrelated step spares, whole or without the tested entities."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig

BASE = SparseMemoryDecorrelatedConfig()

SPACES = {
    "laptop": [
        {
            "background": grid(["corpus", "corpus_without_tested"]),
            "optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0]),
        }
    ],
    "smoke": [{"background": "corpus_without_tested", "optimizer.learning_rate": 80.0}],
    "wiki": [
        {
            "num_trainable_slots": 2000,
            "background": grid(["corpus", "corpus_without_tested"]),
            "optimizer.learning_rate": grid([20.0, 40.0, 80.0, 160.0]),
        }
    ],
}
