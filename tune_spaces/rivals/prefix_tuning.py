"""Rival: prefix tuning, keys and values before every text, learned through a small network (Li and
Liang 2021, arXiv 2101.00190, section 4.3)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.peft import PeftConfig

THROUGH_A_NETWORK = ("prefix_projection=true", "encoder_hidden_size=128")

BASE = PeftConfig(kind="prefix_tuning", settings=("num_virtual_tokens=20", *THROUGH_A_NETWORK))

RATES = grid([1e-4, 3e-4, 1e-3])

SPACES = {
    "laptop": [{"optimizer.learning_rate": RATES}],
    "smoke": [{"optimizer.learning_rate": grid([3e-4, 1e-3])}],
    "wiki": [{"optimizer.learning_rate": RATES}],
    "smollm2": [
        {
            "settings": grid(
                [("num_virtual_tokens=20", *THROUGH_A_NETWORK), ("num_virtual_tokens=100", *THROUGH_A_NETWORK)]
            ),
            "optimizer.learning_rate": RATES,
        }
    ],
}
