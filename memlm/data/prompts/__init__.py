"""What are the models asked? Each prompt is a text file beside this one, with the places to fill
in in braces.

`strategies`, `strategies_trivia` and `apply_strategy` are those of Active Reading (Lin et al.
2025, arXiv 2508.09494); the paper gives the second half of `strategies_trivia` in part only, so
that its wording here is ours.
"""

import hashlib
from collections.abc import Iterable
from importlib import resources


def prompt(name: str, **places: object) -> str:
    """The prompt of that name, filled in."""
    return _text(name).format(**places).strip()


def digest_of(names: Iterable[str]) -> str:
    """Names the very wording of the prompts, for the manifests of what was written with them."""
    return hashlib.sha256("\0".join(map(_text, names)).encode()).hexdigest()


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
