"""What makes `import memlm` enough for Hugging Face's libraries to know memlm's models, at the
cost of importing none of them.

Each library has a table of the model types that it knows, and memlm's type is entered there:
now, if the table is loaded, or once it is. transformers' tables hold names, and a class is
imported when it is first asked for; so ours is.
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
    """Enter memlm's model type in the tables of ENTER, now or once they are imported. Calling it
    again changes nothing."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name, enter in ENTER.items():
        if name in sys.modules:
            enter(sys.modules[name])


def _enter_config(configuration_auto: ModuleType) -> None:
    """The configuration is enough: whoever looks for a model looks for its configuration first,
    and memlm's module registers both."""
    module = ModuleType(f"transformers.models.{MODEL_TYPE}", "Where transformers looks for the class of a model type.")
    module.__getattr__ = _config_class  # type: ignore[method-assign]
    sys.modules[module.__name__] = module
    configuration_auto.CONFIG_MAPPING_NAMES[MODEL_TYPE] = CONFIG_CLASS


def _config_class(name: str) -> Any:
    if name != CONFIG_CLASS:
        raise AttributeError(name)
    return importlib.import_module("memlm.model.language_model").MemoryLlamaConfig


def _enter_target_modules(constants: ModuleType) -> None:
    """Which modules PEFT's methods adapt where nobody names any: those of Llama, whose attention
    ours is."""
    for name, targets in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(targets, dict) and "llama" in targets:
            targets.setdefault(MODEL_TYPE, targets["llama"])


ENTER: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _enter_config,
    "peft.utils.constants": _enter_target_modules,
}
"""By the name of the module that holds the tables. None imports anything, since its module may
be in the middle of other imports."""


class _Finder(MetaPathFinder):
    """Finds the modules of ENTER as the other finders do, and makes the entries when such a
    module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in ENTER:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_enter(module: ModuleType) -> None:
                execute(module)
                ENTER[fullname](module)

            spec.loader.exec_module = execute_and_enter  # type: ignore[method-assign]
        return spec
