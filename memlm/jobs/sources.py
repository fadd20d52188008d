"""Where do the files that a recipe names lie on this machine?"""

import os
from pathlib import Path

from memlm.run import RunError


def expand(path: str, field: str, world: Path | None) -> str:
    """The path with environment variables and {world} filled in. Raises RunError naming the field."""
    if "{world}" in path:
        if world is None:
            raise RunError(f"{field} is {path!r}, and the recipe has no generated world; give a path")
        path = path.replace("{world}", str(world))
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise RunError(f"{field} is {path!r}, and that environment variable is not set; set it, or give a path")
    if not os.path.exists(expanded):
        raise RunError(f"{field} is {expanded!r}, which does not exist; correct the path")
    return expanded
