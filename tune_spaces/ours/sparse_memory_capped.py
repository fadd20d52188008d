"""Ours: slots that more than a share of the background batches reads never move."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig(max_document_frequency=0.3)

SPACES = {
    "laptop": [
        {
            "num_trainable_slots": 500,
            "max_document_frequency": 0.3,
            "optimizer.learning_rate": grid([20.0, 50.0, 100.0, 200.0, 400.0]),
        }
    ],
    "controls": [
        {
            "num_trainable_slots": 500,
            "max_document_frequency": 0.3,
            "optimizer.learning_rate": grid([50.0, 100.0, 200.0, 400.0]),
        }
    ],
    "smoke": [
        {
            "num_trainable_slots": 500,
            "max_document_frequency": grid([0.1, 0.3]),
            "optimizer.learning_rate": grid([2.0]),
        }
    ],
    "wiki": [
        {
            "num_trainable_slots": 500,
            "max_document_frequency": grid([0.1, 0.3]),
            "optimizer.learning_rate": grid([20.0, 50.0, 100.0, 200.0, 400.0]),
        }
    ],
}
