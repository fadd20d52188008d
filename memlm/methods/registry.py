"""Every method by its name: the configs that the files of this folder define."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator

from memlm import methods
from memlm.methods.config import MethodConfig


def _find() -> dict[str, type[MethodConfig]]:
    """Raises ValueError for an incomplete method, and for two methods of one name."""
    found: dict[str, type[MethodConfig]] = {}
    for file in sorted(pkgutil.iter_modules(methods.__path__), key=lambda file: file.name):
        module = f"{methods.__name__}.{file.name}"
        if file.ispkg or module == __name__:
            continue
        for kind in configs_in(vars(importlib.import_module(module)).values(), module):
            other = found.setdefault(kind.name, kind)
            if other is not kind:
                raise ValueError(
                    f"{other.__module__} and {kind.__module__} both define a method named {kind.name!r}; rename one"
                )
    return found


def configs_in(values: Iterable[object], module: str) -> Iterator[type[MethodConfig]]:
    """The methods that a module defines. A class that leaves something abstract and has no name
    is a base of others. Raises ValueError for a method that lacks something."""
    for value in values:
        if not (isinstance(value, type) and issubclass(value, MethodConfig)) or value.__module__ != module:
            continue
        own = vars(value)
        if inspect.isabstract(value) and "name" not in own:
            continue
        lacking = [
            *([] if "name" in own else ["a name of its own"]),
            *([] if hasattr(value, "base") else ["base"]),
            *sorted(value.__abstractmethods__),
            *([] if "__dataclass_fields__" in own else ["@dataclass"]),
        ]
        if lacking:
            raise ValueError(f"{module}.{value.__name__} is a method without {', '.join(lacking)}; add what is missing")
        yield value


METHOD_CONFIGS = _find()
