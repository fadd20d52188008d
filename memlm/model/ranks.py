"""The ranks that run together in one process group."""

import torch.distributed as dist


def num_ranks() -> int:
    """Number of ranks in the default process group; 1 if there is no group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
