"""Rule for names that users give to runs and question sets. One rule serves every use of a name:
as a folder, an S3 key, a file, an MLflow key, a part of an address or a word on a command line."""

import re
from collections.abc import Collection
from difflib import get_close_matches

MAX_LENGTH = 80
"""Longest name, in characters. File systems allow 255 bytes, and stages append digests and
suffixes."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def require_name(field: str, name: str) -> str:
    """Return the name. Raises ValueError, naming `field`, if it breaks the rule."""
    if len(name) > MAX_LENGTH:
        raise ValueError(f"{field} has {len(name)} characters; a name may have {MAX_LENGTH}, so shorten it")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{field} is {name!r}; a name consists of the letters a to z and A to Z, digits, '.', '_' and '-', and begins with a letter or "
            "a digit; choose another one"
        )
    if name.endswith("."):
        raise ValueError(f"{field} is {name!r}; a name must not end in a dot; choose another one")
    return name


def require_distinct(field: str, names: list[str]) -> None:
    """Raise ValueError if two names are equal or differ only in case, which some file systems
    ignore."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) is not name or names.count(name) > 1:
            raise ValueError(
                f"{field} contains {other!r} and {name!r}, and upper and lower case count as equal; rename one of them"
            )


def suggestion(name: str, known: Collection[str]) -> str:
    """End of a message about an unknown name: the most similar known name, and all known names."""
    (nearest,) = get_close_matches(name, known, n=1, cutoff=0.0)
    return f"did you mean {nearest!r}? Known: {', '.join(known)}"
