"""The micro-batches of a background count by number, and the units in which they are counted and
committed. Imports no torch."""

from memlm.training.config import CountingConfig


def num_batches(config: CountingConfig, num_blocks: int) -> int:
    """The number asked for, or all that the corpus has; the last may be padded."""
    return min(config.num_batches, -(-num_blocks // config.batch_blocks))


def units(config: CountingConfig, num_blocks: int) -> list[range]:
    """The micro-batches by number, in the units that are counted and committed together."""
    total = num_batches(config, num_blocks)
    return [
        range(first, min(first + config.batches_per_unit, total)) for first in range(0, total, config.batches_per_unit)
    ]
