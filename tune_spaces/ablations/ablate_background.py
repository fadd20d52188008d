"""Ablation: the text that slots are ranked against, pretraining text (whole, or without the tested
entities), the facts to learn or held-out questions (Lin et al. 2025, figure 7)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.sparse_memory import SparseMemoryConfig

BASE = SparseMemoryConfig()

SPACES = {
    "laptop": [
        {
            "num_trainable_slots": 500,
            "background": grid(["corpus", "corpus_without_tested", "new_facts", "held_out_questions"]),
            "optimizer.learning_rate": grid([2.0, 5.0, 10.0, 20.0]),
        }
    ],
    "wiki": [
        {
            "num_trainable_slots": grid([25, 500]),
            "background": grid(["corpus", "corpus_without_tested", "new_facts", "held_out_questions"]),
            "optimizer.learning_rate": grid([2.0, 5.0, 10.0]),
        }
    ],
    "smoke": [{"background": grid(["corpus_without_tested", "new_facts", "held_out_questions"])}],
}
