"""What is swept: one file per method with its base config and a search space per scale."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memlm.names import suggestion

if TYPE_CHECKING:
    from memlm.jobs.sweep.spaces import MethodSpace


def load_spaces(methods: Sequence[str], scale: str) -> "list[MethodSpace]":
    """The search spaces of these methods. Raises ValueError with the nearest known name for an
    unknown method or scale."""

    known = modules()
    for method in methods:
        if method not in known:
            raise ValueError(_unknown("sweep.methods", method, sorted(known)))
    # Imported only now: a wrong name should not wait for it.
    from memlm.jobs.sweep.spaces import MethodSpace

    spaces = []
    for method in methods:
        module = importlib.import_module(known[method])
        if scale not in module.SPACES:
            raise ValueError(_unknown(f"sweep.scale of {method}", scale, sorted(module.SPACES)))
        spaces.append(MethodSpace(base=module.BASE, spaces=module.SPACES[scale]))
    return spaces


def modules() -> dict[str, str]:
    """The module of every method that can be swept, by the method's name."""
    found = [module.name for module in pkgutil.walk_packages(__path__, f"{__name__}.") if not module.ispkg]
    return {name.rpartition(".")[2]: name for name in sorted(found)}


def _unknown(field: str, name: str, known: Sequence[str]) -> str:
    return f"{field} names {name!r}; {suggestion(name, known)}"
