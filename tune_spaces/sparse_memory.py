"""Sparse memory finetuning on the memory model: learning rate by number of trainable slots t
(Lin et al. 2025, figure 5)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig()

SPACES = {
    # The rate depends on width and value scale, so the paper's is no guide here; the range
    # brackets the best.
    "laptop": [
        {"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0])},
        {"num_trainable_slots": 100, "optimizer.learning_rate": grid([10.0, 20.0])},
    ],
    "laptop_wide": [
        {"num_trainable_slots": 100, "optimizer.learning_rate": grid([5.0, 10.0, 20.0, 40.0])},
        {"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0, 40.0])},
        {"num_trainable_slots": 2000, "optimizer.learning_rate": grid([1.0, 2.0, 5.0])},
    ],
    "laptop_rule": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0, 40.0])}],
    "laptop_scratch": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([5.0, 10.0, 20.0])}],
    # A memory that was added has other scales: its values start at zero, or are trained anew.
    "laptop_retrofit": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([20.0, 80.0, 320.0, 640.0])}],
    # One setting, chosen at 100 facts.
    "saturation": [{"num_trainable_slots": 500, "optimizer.learning_rate": 10.0}],
    "pools": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0])}],
    "laptop_many_facts": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0])}],
    "controls": [{"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0])}],
    "smoke": [{"num_trainable_slots": 50, "optimizer.learning_rate": grid([2.0, 10.0])}],
    "wiki": [
        {"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 6.0])},
        {"num_trainable_slots": 1000, "optimizer.learning_rate": 5.0},
        {"num_trainable_slots": 2000, "optimizer.learning_rate": grid([5.0, 10.0, 20.0])},
    ],
    "wiki_wide": [
        {"num_trainable_slots": 100, "optimizer.learning_rate": grid([10.0, 20.0, 40.0])},
        {"num_trainable_slots": 500, "optimizer.learning_rate": grid([2.0, 6.0, 10.0, 20.0, 40.0])},
        {"num_trainable_slots": 2000, "optimizer.learning_rate": grid([2.5, 5.0, 10.0, 20.0])},
    ],
    "wiki_rule": [
        {"num_trainable_slots": 1000, "optimizer.learning_rate": 10.0},
        {"num_trainable_slots": 2000, "optimizer.learning_rate": grid([5.0, 10.0, 20.0, 40.0])},
    ],
    "triviaqa": [
        {"num_trainable_slots": 1000, "optimizer.learning_rate": grid([5.0, 10.0])},
        {"num_trainable_slots": 2000, "optimizer.learning_rate": 10.0},
    ],
    # Figure 5: t by lr {0.1, 2}, and lr 1, 5, 10 at t = 500.
    "paper": [
        {
            "num_trainable_slots": grid([25, 50, 100, 200, 500, 1000]),
            "optimizer.learning_rate": grid([0.1, 2.0]),
        },
        {"num_trainable_slots": 500, "optimizer.learning_rate": grid([1.0, 5.0, 10.0])},
    ],
    "documents": [{"num_trainable_slots": 10_000, "optimizer.learning_rate": grid([2.0, 5.0, 10.0])}],
    # Values start at zero behind a gate of 1, so rates are high (docs/your-own-model.md).
    "smollm2": [{"num_trainable_slots": 2000, "optimizer.learning_rate": 12_000.0}],
    "smollm2_tuning": [{"num_trainable_slots": 2000, "optimizer.learning_rate": grid([6_000.0, 12_000.0, 24_000.0])}],
}
