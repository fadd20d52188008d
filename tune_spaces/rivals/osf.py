"""Rival: OSF, in which the largest singular directions of every matrix are meant to stay (Nayak et
al. 2025, arXiv 2504.07097). AdamW's steps leave that subspace a little; SGD's would not."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.peft import PeftConfig

BASE = PeftConfig(kind="osf")

RATES = grid([1e-4, 3e-4, 1e-3])

SPACES = {
    "laptop": [{"optimizer.learning_rate": RATES}],
    "smoke": [{"optimizer.learning_rate": grid([3e-4, 1e-3])}],
    "wiki": [{"optimizer.learning_rate": RATES}],
    "smollm2": [
        {
            "settings": grid([("effective_rank=0.5",), ("effective_rank=0.9",)]),
            "optimizer.learning_rate": RATES,
        }
    ],
}
