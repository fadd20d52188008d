"""Where the generated world lies, and what is read from it."""

from pathlib import Path

from memlm import storage
from memlm.config import Config
from memlm.identity import identity
from memlm.run import WORLD_KIND, RunError, command, is_made, run_of


def open_world(config: Config) -> Path | None:
    """The generated world on this machine; none for a recipe without one. Raises RunError naming
    the command that makes it."""
    if config.world is None:
        return None
    uri = run_of(config).world
    if not is_made(uri, kind=WORLD_KIND, config=identity(config.world), inputs={}, part="world"):
        raise RunError(f"{uri} is missing; make it with: {command('prepare_corpus.py', config)}")
    return storage.open_artifact(uri, kind=WORLD_KIND)
