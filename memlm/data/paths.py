"""Resolve the paths in a recipe on this machine."""

import os
from pathlib import Path

from memlm.data.questions import shipped

WORLD = "{world}"
"""Placeholder for the folder of the generated world."""
SHIPPED = "{shipped}"
"""Placeholder for the folder of the questions that come with memlm."""


SAMPLES = "{samples}"
"""Placeholder for the folder of the texts that a base writes by itself."""


class PathError(ValueError):
    """A recipe names a path that does not exist."""


def expand(path: str, field: str, world: Path | None) -> str:
    """The path with environment variables, {world} and {shipped} filled in. Raises PathError naming
    the field.

    Addresses on S3 or the hub are not checked; their readers do that.
    """
    if WORLD in path:
        if world is None:
            raise PathError(f"{field} is {path!r}, and the recipe has no generated world; give a path")
        path = path.replace(WORLD, str(world))
    path = path.replace(SHIPPED, str(shipped.FOLDER))
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise PathError(f"{field} is {path!r}, and that environment variable is not set; set it, or give a path")
    if "://" not in expanded and not os.path.exists(expanded):
        raise PathError(f"{field} is {expanded!r}, which does not exist; correct the path")
    return expanded
