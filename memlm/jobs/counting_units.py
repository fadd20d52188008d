"""Worker's side of `count_accesses`: an actor that counts or reads units one by one and commits
each once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.corpus.corpus import open_corpus
from memlm.jobs.on_ray.attempts import Attempts
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.workers import device_of, enter_worker, user_errors_as_raised
from memlm.kinds import COUNTS_FILE, COUNTS_KIND, READS_FILE, READS_KIND
from memlm.model.language_model import load_checkpoint
from memlm.run import RunError, run_of
from memlm.slots.accesses import memory_layers, value_pools
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.training.counting import count_unit, read_unit

Found = BackgroundCounts | BackgroundReads


@dataclass(frozen=True, kw_only=True)
class Product:
    """What a task makes of its unit."""

    partial: Callable[[Config, range], Artifact]
    file: str
    find: Callable[..., Found]
    load: Callable[[Path], Found]


PRODUCTS = {
    COUNTS_KIND: Product(
        partial=artifacts.partial_counts, file=COUNTS_FILE, find=count_unit, load=BackgroundCounts.load
    ),
    READS_KIND: Product(partial=artifacts.partial_reads, file=READS_FILE, find=read_unit, load=BackgroundReads.load),
}


def partial_of(config: Config, task: Mapping[str, Any], inputs: Mapping[str, str]) -> Artifact:
    """The counts or reads of a task's unit, made from inputs of these digests."""
    unit = range(int(task["first"]), int(task["last"]))
    return PRODUCTS[str(task["kind"])].partial(config, unit).made_from(**inputs)


def is_counted(partial: Artifact) -> bool:
    """Whether the unit's partial result exists and is intact; a damaged one is made again."""
    try:
        if not partial.is_made():
            return False
        partial.open()  # the copy is deleted after it is added up
    except storage.DamagedArtifact as error:
        say(f"warning: {error}; counting it again")
        return False
    return True


class CountUnits:
    """Actor that holds the model and counts one unit after another."""

    def __init__(self, config: Config, inputs: dict[str, str], session: str) -> None:
        enter_worker(config.cluster)
        self.config, self.inputs = config, inputs
        attempts = Attempts(uri=run_of(config).counting_attempts, session=session, limit=config.counting.max_attempts)
        self.attempts = attempts.on_this_node()
        self.load_error: Exception | None = None
        try:
            self._load()
        except torch.OutOfMemoryError as error:
            self.load_error = RunError(f"{error}. Give a worker a GPU of its own with more memory, or a smaller model")
        except (ValueError, OSError) as error:  # Ray would report an error of a constructor as a page of text
            self.load_error = error

    def _load(self) -> None:
        """Load corpus and model. Counts its attempts: Ray restarts an actor that dies here under
        the same name, silently and without limit."""
        checkpoint, loading = (
            artifacts.checkpoint(self.config, "memory"),
            f"loading_{ray.get_runtime_context().get_actor_id()}",
        )
        if not self.attempts.begin(loading):
            raise RunError(
                f"{self.attempts.limit} workers died while they loaded {checkpoint.uri}, probably out of memory. "
                "See Ray's logs for why; give nodes more memory, or fewer workers each (cluster.num_trials_at_once)"
            )
        opened = open_corpus(artifacts.corpus(self.config).uri, digest=self.inputs["corpus"])
        self.blocks = opened.train_blocks()
        self.eos_id, self.pad_id = opened.tokenizer.eos_token_id, opened.tokenizer.pad_token_id
        folder = checkpoint.open(digest=self.inputs["checkpoint"])
        self.model = load_checkpoint(folder, device_of(self.config.cluster))
        assert memory_layers(self.model) and value_pools(self.model), "the memory checkpoint has memory layers"
        self.attempts.forget(loading)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with user_errors_as_raised():
            if self.load_error:
                raise self.load_error
            (task,) = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
            partial = partial_of(self.config, task, self.inputs)
            if is_counted(partial):  # a worker died after its commit and before its answer
                return self._answer(batch, tokens=0)
            if not self.attempts.begin(str(task["unit"])):
                return self._answer(batch, tokens=0, quarantined=True)
            return self._answer(batch, tokens=self._count(PRODUCTS[str(task["kind"])], partial))

    def _count(self, product: Product, partial: Artifact) -> int:
        found = product.find(
            self.model,
            self.blocks,
            range(partial.identity["first"], partial.identity["last"]),
            self.config.counting,
            eos_id=self.eos_id,
            pad_id=self.pad_id,
        )
        with partial.write() as draft:
            found.save(draft.path / product.file)
        return found.num_tokens

    def _answer(self, batch: dict[str, Any], *, tokens: int, quarantined: bool = False) -> dict[str, Any]:
        return {**batch, "tokens": np.array([tokens]), "quarantined": np.array([quarantined])}
