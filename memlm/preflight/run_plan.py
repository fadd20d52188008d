"""Plan of a run: the stages in order, each with its state and the reasons for which it would be
refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memlm import storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.jobs.sweep.spaces import MethodSpace
from memlm.run import run_of

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
        self.num_chunks = 0
        """Chunks of these documents, once estimated."""

    def state(self, artifact: Artifact, **inputs: str) -> str:
        """State of an artifact that would be made from inputs with these digests."""
        try:
            return "reused" if artifact.made_from(**inputs).is_made() else "to be made"
        except ValueError as error:
            return self.obstacle(error)

    def obstacle(self, error: Exception) -> str:
        """Note an error that would stop a run; returns the state of its stage."""
        self.obstacles += 1
        return f"refused: {error}"

    def add(self, stage: str, uri: str, state: str, *lines: str) -> None:
        self.stages.append(StagePlan(stage=stage, uri=uri, state=state, lines=[line for line in lines if line]))

    def digests(self, **inputs: Artifact) -> dict[str, str]:
        """Digests of those inputs of a stage that exist already."""
        return {name: storage.read_manifest(each.uri).digest for name, each in inputs.items() if each.is_there()}
