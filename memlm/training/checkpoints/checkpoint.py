"""Training states: everything that an interrupted pretraining needs to continue, and the search for
the newest complete one.

A training state is a folder `step_########_start_####/` with one artifact per rank: its share of
the weights and moments, in safetensors under the names of the parameters, so that any number of
workers can read it. The number of the start increases with each worker group of a run. It separates
states that two starts saved at the same step: parts of different starts never form one state.

    save:    fill drafts on this node -> training continues -> in the background: hash, upload,
             commit -> ranks agree that it is complete -> only then are older ones deleted
    load:    newest first: the parts of all ranks exist, each is what its name says, every byte is
             verified, on every rank; otherwise the state before it

If a state cannot be written, because a disk is full or the storage is not available, it is
abandoned with a warning. Training continues and tries again at the next state, since stopping would
lose the very work that continuing puts at risk. The newest complete state is never affected.
"""

import logging
import re
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from memlm import storage
from memlm.kinds import TRAINING_STATE_KIND

if TYPE_CHECKING:
    from memlm.training.engine import Engine  # imports DeepSpeed

STATE = re.compile(r"step_(\d{8})_start_(\d{4})")
PART = re.compile(r"rank_(\d+)_of_(\d+)")
FAULTS = (OSError, SafetensorError, storage.StorageError)
"""Faults of a disk or a storage. safetensors wraps the disk's errors in its own."""
log = logging.getLogger(__name__)


class TrainingStates:
    """The states of one run, as read and written by one start of it. Every rank must call every
    method, in the same order."""

    def __init__(self, engine: "Engine", uri: str, *, inputs: dict[str, str], start: int = 1, keep: int = 2) -> None:
        """`start` must be higher than that of any earlier start; the newest `keep` complete states
        are kept."""
        self.engine, self.uri, self.inputs, self.start, self.keep = engine, uri, inputs, start, keep
        self.seconds_waiting = 0.0
        """Time for which saving blocked this rank."""
        self.num_failed = 0
        """Number of states that were abandoned."""
        self._whole: list[str] = []
        self._pending: tuple[str, Future[None]] | None = None

    def save(self, step: int) -> None:
        """Begin a state. At most one is in progress, so this may wait for the previous one;
        `settle` finishes it.

        Raises DivergedError if the values to be saved are not finite.
        """
        self.settle(wait=True)
        began = time.monotonic()
        name = f"step_{step:08d}_start_{self.start:04d}"
        if name in self._whole:
            return
        self.engine.require_finite(f"after step {step}")
        self._pending = name, self._begin(name, step)
        self.seconds_waiting += time.monotonic() - began

    def _begin(self, name: str, step: int) -> Future[None]:
        """Write this rank's share to this node's disk, and start a thread that moves it to the
        storage."""
        done: Future[None] = Future()
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        part = f"rank_{rank}_of_{num_ranks}"
        try:
            with ExitStack() as stack:
                draft = stack.enter_context(
                    storage.write_artifact(
                        storage.join(self.uri, name, part),
                        kind=TRAINING_STATE_KIND,
                        config=_claim(step, rank, num_ranks),
                        inputs=self.inputs,
                    )
                )
                self.engine.save(draft.path)
                (draft.path / f"rank_{rank}").touch()  # a rank may have no share of any parameter
                commit = stack.pop_all()
        except Exception as error:
            done.set_exception(error)
            return done

        def publish() -> None:
            try:
                commit.close()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=publish, name=f"save {name}", daemon=True).start()
        return done

    def settle(self, *, wait: bool = False) -> None:
        """Finish the state in progress if all ranks are done with it; with `wait`, wait until they
        are. Cheap if there is none.

        Raises a rank's error if it is not a fault of the disk or the storage.
        """
        if self._pending is None:
            return
        began = time.monotonic()
        name, done = self._pending
        if wait:
            done.exception()
        ended = done.done()
        failed = done.exception() is not None if ended else False
        running, failed_somewhere = self._anywhere(not ended, failed)
        if running:
            return
        self._pending = None
        if failed_somewhere:
            self._give_up(name, done.exception())
        else:
            self._whole = [*self._whole, name][-self.keep :]
            self._prune()
        self.seconds_waiting += time.monotonic() - began

    def _anywhere(self, *flags: bool) -> list[bool]:
        """Whether each flag is set on any rank."""
        vector = torch.tensor([float(flag) for flag in flags], device=self.engine.device)
        dist.all_reduce(vector, op=dist.ReduceOp.MAX)
        return [bool(value) for value in vector.tolist()]

    def _give_up(self, name: str, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, FAULTS):
            raise error
        self.num_failed += 1
        if error is not None:
            log.warning("%s could not be saved: %s; training continues, and %s is kept", name, error, self._newest())
        self._whole = self._whole[-1:]  # make room for the next one
        if dist.get_rank() == 0:
            self._delete(name)
            self._prune()

    def _newest(self) -> str:
        return self._whole[-1] if self._whole else "no state"

    def _prune(self) -> None:
        """Delete states older than the newest complete one, except those that are kept."""
        if dist.get_rank() == 0 and self._whole:
            for name in _states_in(self.uri):
                if name not in self._whole and name <= self._newest():
                    self._delete(name)

    def _delete(self, name: str) -> None:
        try:
            storage.delete_made(storage.join(self.uri, name))
        except (OSError, storage.StorageError) as error:
            log.warning("%s could not be deleted: %s", name, error)

    def load_newest(self) -> int:
        """Load the newest complete state and return its step; 0 if there is none.

        Raises StorageError if the state belongs to another configuration or corpus, or if the
        storage does not answer.
        """
        for name in _from_first_rank(list(reversed(_states_in(self.uri)))):
            with ExitStack() as copies:  # deleted once all ranks are done with them
                parts = self._parts_of(name, copies)
                incomplete, damaged = self._anywhere(parts is None, False if parts is None else not all(parts))
                if parts is None or incomplete or damaged:
                    self._warn("%s/%s is incomplete or damaged; trying the state before it", self.uri, name)
                    continue
                self._load([part for part in parts if part])
            if len(parts) != dist.get_world_size():
                self._warn(
                    "%s was saved by %d workers; the current %d continue from it with equal results up to rounding, not to the bit",
                    name,
                    len(parts),
                    dist.get_world_size(),
                )
            self._whole = [name]
            return _step_of(name)
        return 0

    def _load(self, parts: list[Path]) -> None:
        with tempfile.TemporaryDirectory() as together:
            for part in parts:
                for file in part.iterdir():
                    if file.name not in (storage.MANIFEST, storage.README):  # each part may have its own
                        (Path(together) / file.name).symlink_to(file)
            self.engine.load(Path(together))
            dist.barrier()

    def _parts_of(self, name: str, copies: ExitStack) -> list[Path | None] | None:
        """The verified folders of all ranks' parts, with None for a damaged one; None if some are
        missing."""
        folder = storage.join(self.uri, name)
        found = [match for part in storage.list_names(folder) if (match := PART.fullmatch(part))]
        if not found:
            return None
        num_ranks = int(found[0][2])
        if {match[0] for match in found} != {f"rank_{rank}_of_{num_ranks}" for rank in range(num_ranks)}:
            return None
        parts: list[Path | None] = []
        for rank in range(num_ranks):
            part = storage.join(folder, f"rank_{rank}_of_{num_ranks}")
            if not storage.has_artifact(part):
                return None
            parts.append(self._verified(part, _claim(_step_of(name), rank, num_ranks), copies))
        return parts

    def _verified(self, uri: str, claim: dict[str, Any], copies: ExitStack) -> Path | None:
        try:
            manifest = storage.read_manifest(uri)
            if (manifest.kind, manifest.config) != (TRAINING_STATE_KIND, claim):
                raise storage.DamagedArtifact(
                    "training state",
                    uri,
                    f"does not match its name: it was made with {manifest.config}",
                    "Move it away.",
                )
            if manifest.inputs != self.inputs:
                raise storage.StorageError(
                    "training state",
                    uri,
                    "belongs to another configuration or corpus",
                    "Give another --run-name, or move it away.",
                )
            return copies.enter_context(storage.open_artifact_temporarily(uri, kind=TRAINING_STATE_KIND))
        except storage.DamagedArtifact as error:
            self._warn("%s", error)
            return None

    def _warn(self, message: str, *values: object) -> None:
        """Log a warning about something that all ranks see, once."""
        if dist.get_rank() == 0:
            log.warning(message, *values)


def _claim(step: int, rank: int, num_ranks: int) -> dict[str, Any]:
    return {"step": step, "rank": rank, "num_ranks": num_ranks}


def _states_in(uri: str) -> list[str]:
    return [name for name in storage.list_names(uri) if STATE.fullmatch(name)]


def _step_of(name: str) -> int:
    match = STATE.fullmatch(name)
    assert match is not None, name
    return int(match[1])


def _from_first_rank(names: list[str]) -> list[str]:
    """The first rank's listing, because a listing may change between two ranks' requests."""
    shared = [names]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]
