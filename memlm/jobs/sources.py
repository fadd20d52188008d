"""Where the generated world lies, and what is read from it."""

from pathlib import Path

from memlm import artifacts
from memlm.config import Config


def open_world(config: Config) -> Path | None:
    """The generated world on this machine; none for a recipe without one. Raises RunError naming
    the command that makes it."""
    if config.world is None:
        return None
    world = artifacts.world(config)
    world.require()
    return world.open()
