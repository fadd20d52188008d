"""Control: full finetuning of the memory model (Lin et al. 2025, figure 6)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.full import FullMemoryConfig

BASE = FullMemoryConfig()

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5])}],
    "controls": [{"optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4])}],
    "smoke": [{"optimizer.learning_rate": grid([5e-5])}],
    "wiki": [{"optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4])}],
}
