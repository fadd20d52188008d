"""Word lists and wordings that are kept as TOML files next to the modules that use them."""

import tomllib
from importlib import resources
from typing import Any


def read_word_lists(package: str, name: str) -> dict[str, Any]:
    """The content of `name`.toml in the package, in the order of the file."""
    return tomllib.loads(resources.files(package).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
