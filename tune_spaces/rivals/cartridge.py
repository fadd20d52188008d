"""Rival: a cartridge, keys and values before every text that begin as those of the statements to
learn (Eyuboglu et al. 2025, arXiv 2506.06266)."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.peft import PeftConfig

BASE = PeftConfig(kind="cartridge", settings=("num_virtual_tokens=64",))

RATES = grid([1e-3, 5e-3, 2e-2])

SPACES = {
    "laptop": [{"optimizer.learning_rate": RATES}],
    "smoke": [{"settings": ("num_virtual_tokens=16",), "optimizer.learning_rate": grid([5e-3, 2e-2])}],
    "wiki": [{"optimizer.learning_rate": RATES}],
    "smollm2": [
        {
            "settings": grid([("num_virtual_tokens=128",), ("num_virtual_tokens=512",)]),
            "optimizer.learning_rate": RATES,
        }
    ],
}
