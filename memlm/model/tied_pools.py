"""A value pool has one owner, the model, and is part of every memory layer that reads it:
torch's registry knows it in all these places.

Whoever exchanges a module by its name, as PEFT does to train a copy of it, exchanges it in one
place; the tie carries it to the others.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn


class Tie:
    """The places that hold one pool: what is put into one of them is put into all."""

    def __init__(self, places: Sequence[tuple["PoolHolder", str]]) -> None:
        """Each place is a module and the name of one of its children."""
        self.places = list(places)
        for holder, name in self.places:
            holder.ties = {**holder.ties, name: self}

    def put(self, pool: nn.Module) -> None:
        for holder, name in self.places:
            holder._modules[name] = pool


class PoolHolder(nn.Module):
    """A module some of whose children are tied to those of other modules."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ties: dict[str, Tie] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        tie = self.__dict__.get("ties", {}).get(name)
        if tie is not None and isinstance(value, nn.Module):
            tie.put(value)
        else:
            super().__setattr__(name, value)

    def _replicate_for_data_parallel(self) -> "PoolHolder":
        replica = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.ties = {}  # its children are set one by one, and those of the original must stay
        return replica


class ValuePools(PoolHolder, nn.ModuleList):
    """All pools of a model."""

    def tie(self, number: int, layers: Sequence[PoolHolder]) -> None:
        """Make a pool the `pool` of these layers."""
        Tie([(self, str(number)), *((layer, "pool") for layer in layers)]).put(self[number])
