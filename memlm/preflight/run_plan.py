"""Plan of a run: the stages in order, each with its state and what a run would be refused for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlm import storage
from memlm.config import Config
from memlm.jobs.sweep.spaces import MethodSpace
from memlm.run import (
    is_made,
    run_of,
)

TO_RESUME = "to be resumed from its newest state"
AHEAD = ("to be made", "to be scored", TO_RESUME)
"""States of stages that will take time."""


@dataclass(kw_only=True)
class StagePlan:
    """A stage with the artifact that it makes, its state, and lines that describe it."""

    stage: str
    uri: str
    state: str
    lines: list[str] = field(default_factory=list)


class RunPlan:
    """The stages of one run, in order."""

    def __init__(self, config: Config, spaces: Sequence[MethodSpace] = ()) -> None:
        self.config, self.spaces, self.run = config, spaces, run_of(config)
        self.stages: list[StagePlan] = []
        self.obstacles = 0
        self.world: Path | None = None
        """Folder of the generated world, if it exists."""
        self.num_blocks: float | None = None
        """Blocks of the training corpus, once known or estimated."""
        self.num_learned: int | None = None
        """Facts or documents to learn, once counted."""

    def state(self, uri: str, kind: str, wanted: Mapping[str, Any], inputs: Mapping[str, str], part: str = "") -> str:
        try:
            return "reused" if is_made(uri, kind=kind, config=wanted, inputs=inputs, part=part) else "to be made"
        except ValueError as error:
            return self.obstacle(error)

    def obstacle(self, error: Exception) -> str:
        """Note an error that would stop a run; returns the state of its stage."""
        self.obstacles += 1
        return f"refused: {error}"

    def add(self, stage: str, uri: str, state: str, *lines: str) -> None:
        self.stages.append(StagePlan(stage=stage, uri=uri, state=state, lines=[line for line in lines if line]))

    def digest(self, uri: str) -> dict[str, str]:
        """Digest of the corpus as an input of later stages; empty until the corpus exists."""
        return {"corpus": storage.read_manifest(uri).digest} if storage.has_artifact(uri) else {}
