"""Which settings of a method are swept. Kept apart from what runs them, because a plan counts
them and should not wait for torch or Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from memlm.config import replace_field
from memlm.methods.config import MethodConfig

GRID = "grid_search"
"""As Ray Tune marks a grid, so that a space written with `tune.grid_search` is the same one."""


def grid(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Each of these values is swept."""
    return {GRID: list(values)}


@dataclass(frozen=True, kw_only=True)
class MethodSpace:
    """One method's settings: its base config and the spaces that are swept around it."""

    base: MethodConfig
    spaces: Sequence[Mapping[str, Any]]
    """Each maps dotted fields of the base to a value or a `grid`; their settings are joined."""

    def settings(self) -> list[MethodConfig]:
        """Every setting once, in order: of a space's fields the first by name changes fastest.
        Raises ValueError for a value that is neither plain nor a grid."""
        found: dict[MethodConfig, None] = {}
        for space in self.spaces:
            fields = sorted(space, reverse=True)
            for values in product(*(_choices(field, space[field]) for field in fields)):
                setting = self.base
                for field, value in zip(fields, values, strict=True):
                    setting = replace_field(setting, field, value)
                found[setting] = None
        return list(found)


def _choices(field: str, value: Any) -> list[Any]:
    if isinstance(value, Mapping) and list(value) == [GRID]:
        return list(value[GRID])
    if value is None or isinstance(value, str | int | float | tuple):
        return [value]
    raise ValueError(
        f"{field} is swept over {value!r}; a space holds plain values and grids, so write grid([first, second, ...])"
    )
