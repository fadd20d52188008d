"""Make memlm's models known to Hugging Face's libraries on `import memlm`, without importing those
libraries.

Each library has a table of the model types that it knows. memlm's types are added to a table at
once if the table is loaded, or as soon as it is. transformers' tables hold names and import a class
when it is first requested; memlm's classes are made the same way.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from memlm.model.decoders.families import FAMILIES, PREFIX


def register_when_imported() -> None:
    """Add memlm's model types to the tables of REGISTER, now or once they are imported. Further
    calls change nothing."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name, register in REGISTER.items():
        if name in sys.modules:
            register(sys.modules[name])


def _register_configs(configuration_auto: ModuleType) -> None:
    """Add the configurations. That suffices: code that looks for a model looks for its
    configuration first, and memlm's module registers both."""
    names = configuration_auto.CONFIG_MAPPING_NAMES
    for family in FAMILIES:
        model_type, class_name = f"{PREFIX}{family}", f"Memory{names[family]}"
        module = ModuleType(f"transformers.models.{model_type}", "Where transformers looks for a model type's class.")
        module.__getattr__ = partial(_configuration, family, class_name)  # type: ignore[method-assign]
        sys.modules[module.__name__] = module
        names[model_type] = class_name


def _configuration(family: str, class_name: str, name: str) -> Any:
    if name != class_name:
        raise AttributeError(name)
    return importlib.import_module("memlm.model.decoders.classes").memory_classes(family).configuration


def _register_target_modules(constants: ModuleType) -> None:
    """Set the modules that PEFT's methods adapt by default to those of the family, because the
    attention is the family's."""
    for name, targets in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(targets, dict):
            for family in FAMILIES:
                if family in targets:
                    targets.setdefault(f"{PREFIX}{family}", targets[family])


REGISTER: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "peft.utils.constants": _register_target_modules,
}
"""Functions by the name of the module that holds the table. None of them imports anything, because
their module may be in the middle of other imports."""


class _Finder(MetaPathFinder):
    """Finds the modules of REGISTER as the other finders do, and adds memlm's entries after such a
    module has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REGISTER:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                REGISTER[fullname](module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
