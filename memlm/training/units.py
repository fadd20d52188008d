"""The micro-batches of a background count by number, and the units in which they are counted and
committed. Imports no torch."""

from memlm.training.config import CountingConfig


def num_batches(config: CountingConfig, num_blocks: int) -> int:
    """The number asked for, or all that the corpus has; the last may be padded."""
    return min(config.num_batches, -(-num_blocks // config.batch_blocks))


def units(config: CountingConfig, num_blocks: int) -> list[range]:
    """The micro-batches by number, in the units that are counted and committed together."""
    return _in_units(config, num_batches(config, num_blocks))


def read_units(config: CountingConfig, num_blocks: int, block_size: int) -> list[range]:
    """The same for the micro-batches whose reads are kept: the first of those counted that hold
    counting.read_tokens tokens."""
    wanted = -(-config.read_tokens // (config.batch_blocks * block_size))
    return _in_units(config, min(wanted, num_batches(config, num_blocks)))


def _in_units(config: CountingConfig, total: int) -> list[range]:
    return [
        range(first, min(first + config.batches_per_unit, total)) for first in range(0, total, config.batches_per_unit)
    ]
