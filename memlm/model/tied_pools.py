"""Ties between the places of a value pool. A pool has one owner, the model, and is also part of
every memory layer that reads it; torch's registry knows it in all these places.

Code that replaces a module by its name, as PEFT does to train a copy, replaces it in one place
only. The tie replaces it in the others.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn


class Tie:
    """The places that hold one pool. A module put into one of them is put into all."""

    def __init__(self, places: Sequence[tuple["PoolHolder", str]]) -> None:
        """Each place is a module and the name of one of its children."""
        self.places = list(places)
        for holder, name in self.places:
            holder.ties = {**holder.ties, name: self}

    def put(self, pool: nn.Module) -> None:
        for holder, name in self.places:
            holder._modules[name] = pool


class PoolHolder(nn.Module):
    """A module with children that are tied to children of other modules."""

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
        replica.ties = {}  # its children are set one by one, and must not replace the original's
        return replica


class ValuePools(PoolHolder, nn.ModuleList):
    """All pools of a model."""

    def tie(self, number: int, layers: Sequence[PoolHolder]) -> None:
        """Make a pool the `pool` of these layers."""
        Tie([(self, str(number)), *((layer, "pool") for layer in layers)]).put(self[number])
