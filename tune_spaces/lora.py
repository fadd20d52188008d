"""LoRA on the dense model: rank, alpha and learning rate (Lin et al. 2025, section 5)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.lora import LoRAConfig

BASE = LoRAConfig()

SPACES = {
    "laptop": [
        {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([2e-4, 5e-4])},
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4])},
        {"rank": 128, "alpha": 128.0, "optimizer.learning_rate": 5e-5},
    ],
    "laptop_rule": [
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4])},
        {"rank": 128, "alpha": 128.0, "optimizer.learning_rate": grid([5e-5, 1e-4])},
    ],
    "laptop_wide": [
        {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([2e-4, 5e-4])},
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([3e-5, 5e-5, 1e-4, 2e-4])},
        {"rank": 64, "alpha": grid([16.0, 256.0]), "optimizer.learning_rate": 1e-4},
        {"rank": 64, "alpha": 64.0, "target": "attention", "optimizer.learning_rate": grid([1e-4, 4e-4])},
        {"rank": 128, "alpha": 128.0, "optimizer.learning_rate": grid([5e-5, 1e-4])},
    ],
    "saturation": [{"rank": 64, "alpha": 64.0, "optimizer.learning_rate": 1e-4}],
    "controls": [
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([5e-5, 1e-4, 2e-4])},
        {"rank": 128, "alpha": 128.0, "optimizer.learning_rate": 5e-5},
    ],
    "smoke": [{"rank": 4, "alpha": 4.0, "optimizer.learning_rate": grid([2e-4, 1e-3])}],
    "wiki": [
        {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([2e-4, 4e-4])},
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([3e-5, 6e-5, 1e-4, 2e-4])},
    ],
    "wiki_wide": [
        {"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([2e-4, 4e-4])},
        {"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([3e-5, 6e-5, 1e-4, 2e-4])},
        {"rank": 64, "alpha": grid([16.0, 256.0]), "optimizer.learning_rate": 1e-4},
        {"rank": 64, "alpha": 64.0, "target": "attention", "optimizer.learning_rate": grid([1e-4, 4e-4])},
        {"rank": 128, "alpha": 128.0, "optimizer.learning_rate": grid([5e-5, 1e-4])},
    ],
    "triviaqa": [{"rank": 64, "alpha": 64.0, "optimizer.learning_rate": grid([6e-5, 2e-4])}],
    # Section 5: rank {32, 128, 256}, alpha {1/2, 1, 2, 4} x rank, lr {2e-4, 5e-5, 5e-6};
    # attention and feed-forward matrices.
    "paper": [
        {
            "rank": rank,
            "alpha": grid([rank * share for share in (0.5, 1.0, 2.0, 4.0)]),
            "optimizer.learning_rate": grid([2e-4, 5e-5, 5e-6]),
        }
        for rank in (32, 128, 256)
    ],
    "documents": [{"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([1e-4, 2e-4, 5e-4])}],
    "smollm2": [{"rank": 16, "alpha": 16.0, "optimizer.learning_rate": 3e-4}],
    "smollm2_tuning": [{"rank": 16, "alpha": 16.0, "optimizer.learning_rate": grid([1.5e-4, 3e-4, 6e-4])}],
}
