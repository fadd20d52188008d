"""The prompts for language models. Each is a text file in this folder, with placeholders in braces.

`strategies`, `strategies_trivia` and `apply_strategy` are those of Active Reading (Lin et al.
2025, arXiv 2508.09494). The paper gives only a part of the second half of `strategies_trivia`, so
its wording here is ours.
"""

import hashlib
from collections.abc import Iterable
from importlib import resources


def prompt(name: str, **places: object) -> str:
    """The prompt with that name, with its placeholders filled in."""
    return _text(name).format(**places).strip()


def digest_of(names: Iterable[str]) -> str:
    """Digest of the prompts' wording, for the manifests of artifacts written with them."""
    return hashlib.sha256("\0".join(map(_text, names)).encode()).hexdigest()


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
