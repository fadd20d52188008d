"""Location of the generated world."""

from pathlib import Path

from memlm import artifacts
from memlm.config import Config


def open_world(config: Config) -> Path | None:
    """Folder of the generated world on this machine; None for a recipe without one. Raises
    RunError, naming the command that makes the world, if it is missing."""
    if config.world is None:
        return None
    world = artifacts.world(config)
    world.require()
    return world.open()
