"""DCLM-baseline as published (Li et al. 2024, arXiv 2406.11794, and its card on the hub)."""

NUM_SHARDS = 27_840
NUM_TOKENS = 4e12
SHARD_BYTES = 200e6
"""Size of a zstd file; they have 141 to 240 MB."""
TOKENS_PER_BYTE = NUM_TOKENS / NUM_SHARDS / SHARD_BYTES


def is_dclm(path: str) -> bool:
    """Whether a corpus is DCLM by its address: copies are named after it."""
    return "DCLM" in path.upper()
