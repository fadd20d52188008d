"""Control: LoRA on the memory model, whose values stay."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.lora import LoRAMemoryConfig

BASE = LoRAMemoryConfig()

WIDE = [
    {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([1e-4, 2e-4, 5e-4])},
    {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([3e-5, 5e-5, 1e-4, 2e-4])},
    {"rank": 64, "alpha": grid([16.0, 256.0]), "optimizer.learning_rate": 1e-4},
    {"rank": 64, "alpha": 64.0, "target": "attention", "optimizer.learning_rate": grid([1e-4, 4e-4])},
    {"rank": 128, "alpha": 128.0, "optimizer.learning_rate": 1e-4},
]

SPACES = {
    "laptop": [{"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([3e-5, 5e-5, 1e-4, 2e-4])}],
    "laptop_wide": WIDE,
    "smoke": [{"rank": 4, "alpha": 4.0, "optimizer.learning_rate": grid([2e-4, 1e-3])}],
    "wiki": [{"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([3e-5, 6e-5, 1e-4, 2e-4])}],
    "wiki_wide": WIDE,
}
