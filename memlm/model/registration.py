"""Make memlm's models known to Hugging Face's libraries on `import memlm`, without importing those
libraries.

Each library has a table of the model types that it knows. memlm's type is added to a table at once
if the table is loaded, or as soon as it is. transformers' tables hold names and import a class
when it is first requested; memlm's class is imported the same way.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODEL_TYPE = "memory_llama"
CONFIG_CLASS = "MemoryLlamaConfig"


def register_when_imported() -> None:
    """Add memlm's model type to the tables of REGISTER, now or once they are imported. Further
    calls change nothing."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name, register in REGISTER.items():
        if name in sys.modules:
            register(sys.modules[name])


def _register_config(configuration_auto: ModuleType) -> None:
    """Add the configuration. That suffices: code that looks for a model looks for its
    configuration first, and memlm's module registers both."""
    module = ModuleType(f"transformers.models.{MODEL_TYPE}", "Where transformers looks for the class of a model type.")
    module.__getattr__ = _config_class  # type: ignore[method-assign]
    sys.modules[module.__name__] = module
    configuration_auto.CONFIG_MAPPING_NAMES[MODEL_TYPE] = CONFIG_CLASS


def _config_class(name: str) -> Any:
    if name != CONFIG_CLASS:
        raise AttributeError(name)
    return importlib.import_module("memlm.model.language_model").MemoryLlamaConfig


def _register_target_modules(constants: ModuleType) -> None:
    """Set the modules that PEFT's methods adapt by default to those of Llama, because the
    attention is Llama's."""
    for name, targets in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(targets, dict) and "llama" in targets:
            targets.setdefault(MODEL_TYPE, targets["llama"])


REGISTER: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
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
