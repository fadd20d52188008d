"""How much of a pretraining's time went into steps that count? Its diary on storage, and what it
comes to.

A run is started as often as it takes: by the user (a session), and within that again by Ray
after each loss of a worker. Each start keeps one small file, written anew every few seconds, so
a start that was killed has said how far it came. Goodput is the time in steps that were not lost
again, over all time since each session began: what is missing are restarts, steps done twice,
and waiting for saves.
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
"""Training stands still while it is written, and it is soon written anew."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """One worker group of a run, as far as it was when it last wrote. Times are in seconds since
    1970."""

    session: float
    """When its session began."""
    seen: float
    begun: bool = False
    """Whether it came as far as its first step."""
    first_step: int = 0
    """What it went on from."""
    last_step: int = 0
    seconds_stepping: float = 0.0
    seconds_saving: float = 0.0
    """In which training stood still."""


@dataclass(frozen=True, kw_only=True)
class Goodput:
    share: float
    """Of the seconds, those in steps that count."""
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
    """Of starts in their order."""
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
    """The starts of a run, to which this one is added. One writer at a time."""

    uri: str
    session: float
    number: int = 0
    """Of this start, from 1."""
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
        """After each step, and with `write` where it matters; otherwise it is written every few
        seconds."""
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
