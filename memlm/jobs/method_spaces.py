"""Which settings of a method are swept? Apart from what runs them, because a plan counts them and should not wait for torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.search.variant_generator import generate_variants

from memlm.config import replace_field
from memlm.methods.config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class MethodSpace:
    """One method's settings: its base config and the Tune spaces that are swept around it."""

    base: MethodConfig
    spaces: Sequence[Mapping[str, Any]]
    """Each maps dotted fields of the base to values or tune.grid_search; their settings are joined."""

    def settings(self) -> list[MethodConfig]:
        """Every setting once, in order."""
        found: dict[MethodConfig, None] = {}
        for space in self.spaces:
            for _, variant in generate_variants(dict(space)):
                setting = self.base
                for field, value in variant.items():
                    setting = replace_field(setting, field, value)
                found[setting] = None
        return list(found)
