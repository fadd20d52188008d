"""Goodput: the share of a pretraining's time that went into steps that count, and the diary on
storage that it is computed from.

A run may be started several times: by the user (a session), and within a session by Ray after each
loss of a worker. Each start keeps one small file, rewritten every few seconds, so the file of a
start that was killed says how far it came. Goodput is the time in steps that were not lost later,
divided by all time since each session began. Restarts, repeated steps and waiting for saves are the
rest.
"""

import logging
import re
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby

from memlm import storage
from memlm.storage.retries import RetryPolicy, using_policy

FOLDER = "starts"
START_NAMES = r"\d{4,}\.json"
"""The names of the files in it."""
EVERY_SECONDS = 5.0
RETRY_POLICY = RetryPolicy(attempts=2, connect_seconds=1, silence_seconds=2, deadline_seconds=2)
"""Training waits while the file is written, and the next write follows soon."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """One worker group of a run, at the time of its last write. Times are in seconds since 1970."""

    session: float
    """Time when its session began."""
    seen: float
    begun: bool = False
    """Whether it reached its first step."""
    first_step: int = 0
    """The step that it resumed from."""
    last_step: int = 0
    seconds_stepping: float = 0.0
    seconds_saving: float = 0.0
    """Seconds in which training waited for saves."""


@dataclass(frozen=True, kw_only=True)
class Goodput:
    share: float
    """Share of the seconds in steps that count."""
    seconds: float
    steps_redone: int
    restarts: int
    seconds_saving: float

    def metrics(self) -> dict[str, float]:
        return {f"goodput/{name}": value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"goodput {self.share:.1%} of {self.seconds:.0f} s; {self.steps_redone} steps done again after "
            f"{self.restarts} restarts; {self.seconds_saving:.1f} s waiting for states to be saved"
        )


def goodput_of(starts: list[Start]) -> Goodput:
    """Goodput of a run's starts, given in their order."""
    useful, redone, kept_until = 0.0, 0, float("inf")
    for start in reversed([start for start in starts if start.begun]):
        done = start.last_step - start.first_step
        kept = int(max(0, min(start.last_step, kept_until) - start.first_step))
        kept_until = min(kept_until, start.first_step)
        redone += done - kept
        useful += start.seconds_stepping * kept / max(1, done)
    sessions = [list(group) for _, group in groupby(starts, key=lambda start: start.session)]
    seconds = sum(max(start.seen for start in group) - group[0].session for group in sessions)
    return Goodput(
        share=useful / seconds if seconds else 0.0,
        seconds=seconds,
        steps_redone=redone,
        restarts=max(0, len(starts) - 1),
        seconds_saving=sum(start.seconds_saving for start in starts),
    )


@dataclass(kw_only=True)
class Diary:
    """The starts of a run, with one more for this start. One writer at a time."""

    uri: str
    session: float
    number: int = 0
    """Number of this start, from 1."""
    before: list[Start] = field(default_factory=list)
    now: Start = field(init=False)

    def __post_init__(self) -> None:
        names = storage.list_names(self.uri)  # at the start, so with all patience
        numbers = [int(name.removesuffix(".json")) for name in names if re.fullmatch(START_NAMES, name)]
        for number in numbers:
            try:
                self.before.append(Start(**storage.read_record(self._file(number))))
            except (storage.StorageError, TypeError) as error:  # the account is poorer then; the training is not
                log.warning("%s", error)
        self.number = max(numbers, default=0) + 1
        self.now = Start(session=self.session, seen=time.time())
        self._write()

    def begin(self, first_step: int) -> None:
        self.now = replace(self.now, begun=True, first_step=first_step, last_step=first_step, seen=time.time())
        self._write()

    def add(self, step: int, *, seconds_stepping: float, seconds_saving: float, write: bool = False) -> None:
        """Add a step. The file is written every few seconds, or at once with `write`."""
        due = write or time.time() - self.now.seen >= EVERY_SECONDS
        seen = time.time() if due else self.now.seen
        self.now = replace(
            self.now, last_step=step, seconds_stepping=seconds_stepping, seconds_saving=seconds_saving, seen=seen
        )
        if due:
            self._write()

    def goodput(self) -> Goodput:
        return goodput_of([*self.before, replace(self.now, seen=time.time())])

    def _write(self) -> None:
        try:
            with using_policy(RETRY_POLICY):
                storage.write_record(self._file(self.number), asdict(self.now))
        except (OSError, storage.StorageError) as error:
            log.warning("%s", error)

    def _file(self, number: int) -> str:
        return storage.join(self.uri, f"{number:04d}.json")
