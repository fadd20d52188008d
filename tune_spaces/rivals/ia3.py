"""Rival: (IA)3, learned scales of keys, values and feed-forward activations (Liu et al. 2022, arXiv
2205.05638, which uses a rate of 3e-3)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.peft import PeftConfig

BASE = PeftConfig(kind="ia3")

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([3e-3, 1e-2, 3e-2])}],
    "smoke": [{"optimizer.learning_rate": grid([3e-3, 3e-2])}],
    "wiki": [{"optimizer.learning_rate": grid([3e-3, 1e-2, 3e-2])}],
    "smollm2": [{"optimizer.learning_rate": grid([3e-3, 1e-2, 3e-2])}],
}
