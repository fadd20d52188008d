"""Control: full finetuning by plain SGD, one half of the optimiser study of the paper's author
(The Continual Learning Problem, 2025)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig

BASE = FullConfig(optimizer=OptimizerConfig(kind="sgd", learning_rate=0.003, weight_decay=0.0))

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([0.001, 0.002, 0.003, 0.006])}],
    "laptop_wide": [
        {
            "optimizer.schedule": grid(["constant", "linear"]),
            "optimizer.learning_rate": grid([0.0005, 0.001, 0.002, 0.003, 0.006, 0.01]),
        }
    ],
    "smoke": [{"optimizer.learning_rate": grid([0.05, 0.5])}],
    "wiki": [{"optimizer.learning_rate": grid([0.001, 0.002, 0.003, 0.006])}],
    "wiki_wide": [
        {
            "optimizer.schedule": grid(["constant", "linear"]),
            "optimizer.learning_rate": grid([0.0005, 0.001, 0.002, 0.003, 0.006, 0.01]),
        }
    ],
}
