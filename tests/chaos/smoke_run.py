"""A small undisturbed run, made once for all rows of a process: corpus, checkpoint and counts."""

import atexit
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.corpus.corpus import open_corpus
from memlm.jobs import prepare_corpus, pretrain
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.trial.materials import load_model
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.training.counting import count_unit, read_unit
from tests.jobs.running import smoke

NUM_STEPS = 120
Found = TypeVar("Found", BackgroundCounts, BackgroundReads)
NUM_UNITS, NUM_READ_UNITS = 200, 20
UNIT_TOKENS = 128
"""Tokens of a micro-batch of `smoke`, which is a unit here."""
OPTIONS = (
    *("--tracking", "off", "--cluster.num-trials-at-once", "2", "--cluster.max-failures", "1000"),
    *("--pretraining.num-steps", str(NUM_STEPS), "--pretraining.checkpoint-every", "3", "--pretraining.log-every", "1"),
    *("--counting.num-batches", str(NUM_UNITS), "--counting.batches-per-unit", "1", "--counting.max-attempts", "10"),
    *("--counting.read-tokens", str(NUM_READ_UNITS * UNIT_TOKENS)),
)


@cache
def undisturbed_run() -> Path:
    """The storage folder of a run named smoke."""
    root = Path(tempfile.mkdtemp(prefix="memlm-chaos-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    config = smoke(root, *OPTIONS)
    with connect(config):
        prepare_corpus.run(config)
        pretrain.run(config)
    return root


@contextmanager
def copy_of_run(*, without: str) -> Iterator[Config]:
    """A copy of the run without one artifact, to be disturbed, and Ray for the jobs of this
    process."""
    with tempfile.TemporaryDirectory(prefix="memlm-chaos-") as root:
        source = undisturbed_run() / "smoke"
        shutil.copytree(source, Path(root) / "smoke", ignore=shutil.ignore_patterns("ray", without))
        config = smoke(root, *OPTIONS)
        with connect(config):
            yield config


def undisturbed_checkpoint() -> storage.Manifest:
    return storage.read_manifest(str(undisturbed_run() / "smoke" / "checkpoint-memory"))


@cache
def counts_of_one_process() -> BackgroundCounts:
    return _of_one_process(count_unit, NUM_UNITS)


@cache
def reads_of_one_process() -> BackgroundReads:
    return _of_one_process(read_unit, NUM_READ_UNITS)


def _of_one_process(find: Callable[..., Found], num_units: int) -> Found:
    config = smoke(undisturbed_run(), *OPTIONS)
    corpus = open_corpus(artifacts.corpus(config).uri)
    return find(
        load_model(artifacts.checkpoint(config, "memory").uri),
        corpus.train_blocks(),
        range(num_units),
        config.counting,
        eos_id=corpus.tokenizer.eos_token_id,
        pad_id=corpus.tokenizer.pad_token_id,
    )


def differing(one: Any, other: Any) -> int:
    """Number of fields in which two counts, two reads or two of their parts differ."""
    compared = [field.name for field in fields(one) if field.compare]
    return sum(not _equal(getattr(one, name), getattr(other, name)) for name in compared)


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if is_dataclass(one) and type(one) is type(other):
        return differing(one, other) == 0
    return one == other


@contextmanager
def meanwhile(disturb: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `disturb` in another thread, which must end once the event is set."""
    over, failure = threading.Event(), []

    def run() -> None:
        try:
            disturb(over)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failure:
        raise failure[0]


def wait_until(condition: Callable[[], bool], over: threading.Event, *, poll_seconds: float = 0.005) -> bool:
    """Wait for the condition; False if the event is set first."""
    while not condition():
        if over.is_set():
            return False
        time.sleep(poll_seconds)
    return True
