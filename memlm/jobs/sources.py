"""Where do the files that a recipe names lie on this machine?"""

import os
from pathlib import Path

from memlm import storage
from memlm.config import Config, identity
from memlm.run import WORLD_KIND, RunError, command, is_made, run_of


def expand(path: str, field: str, world: Path | None) -> str:
    """The path with environment variables and {world} filled in. Raises RunError naming the field.

    What lies on S3 or the hub is left to its reader.
    """
    if "{world}" in path:
        if world is None:
            raise RunError(f"{field} is {path!r}, and the recipe has no generated world; give a path")
        path = path.replace("{world}", str(world))
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise RunError(f"{field} is {path!r}, and that environment variable is not set; set it, or give a path")
    if "://" not in expanded and not os.path.exists(expanded):
        raise RunError(f"{field} is {expanded!r}, which does not exist; correct the path")
    return expanded


def open_world(config: Config) -> Path | None:
    """The generated world on this machine; none for a recipe without one. Raises RunError naming the command that makes it."""
    if config.world is None:
        return None
    uri = run_of(config).world
    if not is_made(uri, kind=WORLD_KIND, config=identity(config.world), inputs={}, part="world"):
        raise RunError(f"{uri} is missing; make it with: {command('prepare_corpus.py', config)}")
    return storage.open_artifact(uri, kind=WORLD_KIND)
