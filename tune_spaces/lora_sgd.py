"""Control: LoRA by plain SGD, the other half of the optimiser study of the paper's author (The
Continual Learning Problem, 2025)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import OptimizerConfig
from memlm.methods.lora import LoRAConfig

BASE = LoRAConfig(rank=64, alpha=64.0, optimizer=OptimizerConfig(kind="sgd", learning_rate=0.01, weight_decay=0.0))

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([0.005, 0.01, 0.02, 0.05])}],
    "laptop_wide": [
        {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([0.002, 0.005, 0.01, 0.02, 0.05, 0.1])},
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([0.002, 0.005, 0.01, 0.02, 0.05, 0.1])},
    ],
    "smoke": [{"optimizer.learning_rate": grid([0.05, 0.5])}],
    "wiki": [{"optimizer.learning_rate": grid([0.005, 0.01, 0.02, 0.05])}],
    "wiki_wide": [
        {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([0.002, 0.005, 0.01, 0.02, 0.05, 0.1])},
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([0.002, 0.005, 0.01, 0.02, 0.05, 0.1])},
    ],
}
