"""This rank's share of the weights and of Adam's moments, by the names of the parameters, so that a
different number of workers can continue from it.

DeepSpeed stores parameters in flat buffers of its own, differently for each ZeRO stage, and
partitions those over the ranks. Here a parameter is a flat range of numbers under its name, and a
rank's share of it is a fragment: saved as safetensors, and reassembled on any number of ranks and
at any stage. With the same number and stage, the bits are those that were saved.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

PARTS = {"weight": None, "first_moment": "exp_avg", "second_moment": "exp_avg_sq"}
"""Numbers kept for each element of a parameter, and Adam's own names for them."""


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A rank's share of one parameter. Its tensors are views of the optimizer's, so copying into
    them loads a state."""

    start: int
    """First element within the flattened parameter."""
    weight: Tensor
    state: dict[str, Any]
    """Adam's state of the tensor that contains this share: its step, and moments as long as that
    tensor. Empty before the first step."""
    offset: int
    """First element within that tensor."""

    def part(self, name: str) -> Tensor | None:
        key = PARTS[name]
        if key is None:
            return self.weight
        moments = self.state.get(key)
        return None if moments is None else moments.flatten()[self.offset : self.offset + self.weight.numel()]

    def parts(self) -> list[Tensor]:
        """The weight, and the moments if they exist."""
        return [part for name in PARTS if (part := self.part(name)) is not None]

    @property
    def num_steps(self) -> int:
        return int(self.state["step"]) if self.state else 0

    def share(self, rank: int, num_ranks: int) -> "Fragment":
        """A rank's part of a share that all ranks hold."""
        first, last = (number * self.weight.numel() // num_ranks for number in (rank, rank + 1))
        return replace(self, start=self.start + first, weight=self.weight[first:last], offset=self.offset + first)


def fragments_of(module: nn.Module, optimizer: Any, zero_stage: int) -> dict[str, Fragment]:
    """This rank's shares, by the name of the parameter."""
    find = (_whole, _fragments_in_flat_groups, _fragments_in_flat_groups, _fragments_in_partitioned_weights)[zero_stage]
    return {name: found for name, parameter in _trained(module) if (found := find(parameter, optimizer))}


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that move. A frozen base is in none of the files: it is where it came from."""
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _whole(parameter: nn.Parameter, optimizer: Any) -> Fragment:
    state = optimizer.state.get(parameter, {})
    return Fragment(start=0, weight=parameter.detach().view(-1), state=state, offset=0)


def _fragments_in_flat_groups(parameter: Any, optimizer: Any) -> Fragment | None:
    """ZeRO 1 and 2 flatten each group of parameters and cut it into one part per rank, without
    regard to the parameters' boundaries."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    return Fragment(
        start=mapping.lp_fragment_address.start,
        weight=mapping.hp_fragment.detach(),
        state=optimizer.optimizer.state.get(flat, {}),
        offset=mapping.hp_fragment_address.start,
    )


def _fragments_in_partitioned_weights(parameter: Any, optimizer: Any) -> Fragment | None:
    """ZeRO 3 cuts each parameter into parts of equal size, padding the last one."""
    group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = dist.get_rank() * size
    length = min(size, parameter.ds_numel - start)
    if length <= 0:
        return None
    flat = optimizer.fp32_partitioned_groups_flat[group]
    weight = flat.detach()[offset : offset + length]
    return Fragment(start=start, weight=weight, state=optimizer.optimizer.state.get(flat, {}), offset=offset)


def save_fragments(module: nn.Module, optimizer: Any, zero_stage: int, directory: Path) -> None:
    """Write this rank's file. Uses no collective, so a rank that cannot write blocks no other."""
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    fragments = fragments_of(module, optimizer, zero_stage)
    if zero_stage == 0:
        fragments = {name: fragment.share(rank, num_ranks) for name, fragment in fragments.items()}
    tensors = {
        f"{part}/{name}": values
        for name, fragment in fragments.items()
        for part in PARTS
        if (values := fragment.part(part)) is not None
    }
    places = {name: [fragment.start, fragment.num_steps] for name, fragment in fragments.items()}
    save_file(tensors, directory / f"fragments_{rank}.safetensors", {"places": json.dumps(places)})


def load_fragments(module: nn.Module, optimizer: Any, zero_stage: int, directory: Path) -> None:
    """Load from a directory with the files of every rank of a run. Every rank must call it."""
    with ExitStack() as opened, torch.no_grad():
        saved = _Saved([opened.enter_context(safe_open(path, "pt")) for path in sorted(directory.glob("fragments_*"))])
        if zero_stage == 3:
            optimizer.checkpoint_event_prologue()  # so that no rank holds gathered weights
        else:
            for name, parameter in _trained(module):
                parameter.copy_(saved.read("weight", name, range(parameter.numel())).view_as(parameter))
        _begin_states(module, optimizer, zero_stage, saved)
        for name, fragment in fragments_of(module, optimizer, zero_stage).items():
            wanted = range(fragment.start, fragment.start + fragment.weight.numel())
            for part in PARTS:
                place = fragment.part(part)
                if place is not None:
                    place.copy_(saved.read(part, name, wanted))
    if zero_stage in (1, 2):
        optimizer._lazy_init_hp_params_optimizer_state()
    if zero_stage == 3:
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()


def _begin_states(module: nn.Module, optimizer: Any, zero_stage: int, saved: "_Saved") -> None:
    """Create Adam's moments, which it would otherwise create in its first step; a resumed run needs
    them earlier."""
    for tensor, names in _stepped_tensors(module, optimizer, zero_stage):
        num_steps = max((saved.num_steps[name] for name in names), default=0)
        if num_steps:
            moments = {key: torch.zeros_like(tensor) for key in PARTS.values() if key}
            step = torch.tensor(float(num_steps), device=tensor.device)
            (optimizer.optimizer if zero_stage else optimizer).state[tensor] = {"step": step, **moments}


def _stepped_tensors(module: nn.Module, optimizer: Any, zero_stage: int) -> Iterator[tuple[Tensor, list[str]]]:
    """The tensors that Adam treats as its parameters, with the names of the model's parameters that
    have a share in each."""
    named = dict(_trained(module))
    if zero_stage == 0:
        yield from ((parameter, [name]) for name, parameter in named.items())
        return
    members: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in named.items():
        if zero_stage == 3:
            members[optimizer.grad_position[optimizer.get_param_id(parameter)][0]].append(name)
        elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]
            members[parameter._hp_mapping.param_group_index].append(name)  # type: ignore[attr-defined]
    flat = optimizer.fp32_partitioned_groups_flat if zero_stage == 3 else optimizer.single_partition_of_fp32_groups
    yield from ((tensor, members[group]) for group, tensor in enumerate(flat))


class _Saved:
    """All ranks' files as one."""

    def __init__(self, files: Iterable[Any]) -> None:
        self.pieces: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        self.num_steps: defaultdict[str, int] = defaultdict(int)
        for file in files:
            for name, (start, num_steps) in json.loads(file.metadata()["places"]).items():
                self.pieces[name].append((start, file))
                self.num_steps[name] = max(self.num_steps[name], num_steps)

    def read(self, part: str, name: str, wanted: range) -> Tensor:
        """The elements of a range of a flattened parameter."""
        found, num_found = torch.empty(len(wanted)), 0
        for start, file in self.pieces[name]:
            piece = file.get_slice(f"{part}/{name}")
            first, last = max(start, wanted.start), min(start + piece.get_shape()[0], wanted.stop)
            if first < last:
                found[first - wanted.start : last - wanted.start] = piece[first - start : last - start]
                num_found += last - first
        assert num_found == len(wanted), f"{part} of {name}: {num_found} of {len(wanted)} numbers were saved"
        return found
