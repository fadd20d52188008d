"""What does an interrupted pretraining need to go on, and where is the newest whole copy of it?

A training state is one artifact per rank under `step_########/`: its share of what DeepSpeed keeps, and of the value tables with
their moments where LazyAdam trains them. Ranks verify all of them before DeepSpeed, which reads pickles,
sees a byte; one that is damaged or incomplete is passed over for the one before it.
"""

import logging
import tempfile
from pathlib import Path

import torch.distributed as dist

from memlm import storage
from memlm.training.engine import Engine

KIND = "training_state"
log = logging.getLogger(__name__)


def save_state(engine: Engine, uri: str, *, step: int, inputs: dict[str, str], keep: int = 2) -> None:
    """Every rank must call it. Keeps the newest `keep` states."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    folder = storage.join(uri, f"step_{step:08d}")
    with storage.write_artifact(
        storage.join(folder, f"rank_{rank}_of_{world_size}"), kind=KIND, config={"step": step}, inputs=inputs
    ) as draft:
        engine.save(draft.path)
        (draft.path / f"rank_{rank}").touch()  # without ZeRO only the first rank has something to save
    dist.barrier()
    if rank == 0:
        for name in storage.list_names(uri)[:-keep]:
            storage.delete(storage.join(uri, name))


def load_newest_state(engine: Engine, uri: str, *, inputs: dict[str, str]) -> int:
    """Load the newest whole state and return its step; 0 when there is none. Every rank must call it.

    States of another number of workers are refused: DeepSpeed's shards fit the number that wrote them.
    """
    world_size = dist.get_world_size()
    for name in reversed(storage.list_names(uri)):
        folder = storage.join(uri, name)
        ranks = storage.list_names(folder)
        others = [rank for rank in ranks if not rank.endswith(f"_of_{world_size}")]
        if others:
            raise storage.StorageError(
                "training state",
                folder,
                f"was written by another number of workers ({others[0]}), and this run has {world_size}",
                "Set cluster.num_workers back, or delete it to start again.",
            )
        if len(ranks) < world_size:
            log.warning("%s is incomplete; going back to the one before it", folder)
            continue
        try:
            parts = [storage.open_artifact(storage.join(folder, rank), kind=KIND) for rank in ranks]
            manifest = storage.read_manifest(storage.join(folder, ranks[0]))
        except storage.DamagedArtifact as error:
            log.warning("%s; going back to the one before it", error)
            continue
        if manifest.inputs != inputs:
            raise storage.StorageError(
                "training state",
                folder,
                "belongs to another configuration or corpus",
                "Give another --run-name, or delete it.",
            )
        with tempfile.TemporaryDirectory() as whole:
            for part in parts:
                for file in part.rglob("*"):
                    if file.is_file() and file.name != storage.MANIFEST:
                        link = Path(whole) / file.relative_to(part)
                        link.parent.mkdir(parents=True, exist_ok=True)
                        if not link.exists():
                            link.symlink_to(file)
            engine.load(Path(whole))
            dist.barrier()
        return int(manifest.config["step"])
    return 0
