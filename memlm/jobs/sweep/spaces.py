"""Settings of a method that are swept. This module imports neither torch nor Ray, so that a dry run
can count settings at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from memlm.config import replace_field
from memlm.methods.config import MethodConfig

GRID = "grid_search"
"""Ray Tune's mark of a grid, so that a space may also use `tune.grid_search`."""


def grid(values: Sequence[Any]) -> dict[str, list[Any]]:
    """Grid of values to sweep."""
    return {GRID: list(values)}


@dataclass(frozen=True, kw_only=True)
class MethodSpace:
    """Settings of one method: a base config, and the spaces to sweep around it."""

    base: MethodConfig
    spaces: Sequence[Mapping[str, Any]]
    """Spaces, each a mapping of dotted fields of the base to a value or a `grid`; the sweep uses
    the settings of all."""

    def settings(self) -> list[MethodConfig]:
        """Every setting once. Within a space, the first field by name changes fastest. Raises
        ValueError for a value that is neither plain nor a grid."""
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
        f"{field} is swept over {value!r}; a space must contain plain values or grids; write grid([first, second, ...])"
    )
