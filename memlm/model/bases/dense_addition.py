"""A dense feed-forward network in the place of a memory, which computes as much per token: the
control that tells what a memory adds from what any added parameters would."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from memlm.model.config import MemoryConfig
from memlm.model.decoders.families import feed_forward_of, replace_feed_forward
from memlm.model.memory import add_to


def macs_of_memory(memory: MemoryConfig, hidden_size: int) -> int:
    """Multiplications and additions of one memory layer for one token: query, scores of half-keys
    and of pairs, read, gate and output."""
    search = (
        memory.num_heads * memory.key_dim * (hidden_size + memory.num_half_keys) + memory.num_heads * memory.top_k**2
    )
    read = memory.num_heads * memory.top_k * memory.value_dim
    return search + read + 2 * hidden_size * memory.value_dim


class DenseAddition(nn.Module):
    """A gated feed-forward network whose output is zero at first."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, width, bias=False)
        self.up = nn.Linear(hidden_size, width, bias=False)
        self.down = nn.Linear(width, hidden_size, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        output: Tensor = self.down(F.silu(self.gate(hidden_states)) * self.up(hidden_states))
        return output


def add_dense(model: PreTrainedModel, memory: MemoryConfig, *, seed: int) -> list[str]:
    """Put a dense network into the place of each of the memory's layers in a base. Returns the
    names of their parameters."""
    hidden_size = model.config.hidden_size
    width = max(1, round(macs_of_memory(memory, hidden_size) / (3 * hidden_size)))
    before = {id(parameter) for parameter in model.parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in memory.layers:
            dense = DenseAddition(hidden_size, width).to(device=model.device, dtype=model.dtype)
            if memory.placement == "parallel":
                add_to(feed_forward_of(model, number), dense)
            else:
                replace_feed_forward(model, number, dense)
    return [name for name, parameter in model.named_parameters() if id(parameter) not in before]
