"""Full finetuning of the dense model: learning rate (Lin et al. 2025, figure 5)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.full import FullConfig

BASE = FullConfig()

SPACES = {
    "laptop": [{"optimizer.learning_rate": grid([1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 1e-4])}],
    "laptop_rule": [{"optimizer.learning_rate": grid([1e-5, 2e-5, 3e-5, 5e-5, 1e-4])}],
    "laptop_scratch": [{"optimizer.learning_rate": grid([5e-5, 1e-4])}],
    "laptop_wide": [
        {"optimizer.weight_decay": 0.1, "optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4])},
        {"optimizer.weight_decay": 0.0, "optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4])},
        {
            "optimizer.weight_decay": 0.1,
            "optimizer.schedule": "linear",
            "optimizer.learning_rate": grid([2e-5, 4e-5, 1e-4, 2e-4]),
        },
    ],
    "saturation": [{"optimizer.learning_rate": 5e-5}],
    "controls": [{"optimizer.learning_rate": grid([1e-5, 2e-5, 5e-5, 1e-4])}],
    "smoke": [{"optimizer.learning_rate": grid([5e-5, 5e-4])}],
    "wiki": [{"optimizer.learning_rate": grid([1.5e-5, 3e-5, 4e-5, 5e-5, 8e-5, 1.2e-4])}],
    "wiki_wide": [
        {"optimizer.weight_decay": 0.1, "optimizer.learning_rate": grid([1.5e-5, 3e-5, 5e-5, 8e-5])},
        {"optimizer.weight_decay": 0.0, "optimizer.learning_rate": grid([1.5e-5, 3e-5, 5e-5, 8e-5])},
        {
            "optimizer.weight_decay": 0.1,
            "optimizer.schedule": "linear",
            "optimizer.learning_rate": grid([3e-5, 6e-5, 1e-4, 1.6e-4]),
        },
    ],
    "wiki_rule": [{"optimizer.learning_rate": grid([3e-5, 4e-5, 5e-5, 8e-5, 1.2e-4])}],
    "triviaqa": [{"optimizer.learning_rate": grid([3e-5, 8e-5])}],
    # Figure 5: lr {2e-6, 5e-6, 2e-5, 5e-5}.
    "paper": [{"optimizer.learning_rate": grid([2e-6, 5e-6, 2e-5, 5e-5])}],
    "documents": [{"optimizer.learning_rate": grid([2e-5, 5e-5, 1e-4])}],
    "smollm2": [{"optimizer.learning_rate": 3e-5}],
    "smollm2_tuning": [{"optimizer.learning_rate": grid([1.5e-5, 3e-5, 6e-5])}],
}
