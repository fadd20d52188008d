"""Every method by its name: the configs that the files of this folder define."""

import importlib
import pkgutil

from memlm import methods
from memlm.methods.config import MethodConfig


def _find() -> dict[str, type[MethodConfig]]:
    """Raises ValueError for two methods of one name."""
    found: dict[str, type[MethodConfig]] = {}
    for file in sorted(pkgutil.iter_modules(methods.__path__), key=lambda file: file.name):
        if file.ispkg or f"{methods.__name__}.{file.name}" == __name__:
            continue
        for value in vars(importlib.import_module(f"{methods.__name__}.{file.name}")).values():
            if not (isinstance(value, type) and issubclass(value, MethodConfig) and "name" in vars(value)):
                continue
            other = found.setdefault(value.name, value)
            if other is not value:
                raise ValueError(
                    f"{other.__module__} and {value.__module__} both define a method named {value.name!r}; rename one"
                )
    return found


METHOD_CONFIGS = _find()
