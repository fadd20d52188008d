"""Accounting for every line of a shard: lines read = kept + dropped by reason + malformed by
reason, always.

The readers in `shards.py` fill it in. It is stored with the blocks of each shard and added up in
the corpus artifact.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SAMPLES = 100
BLANK_LINE = "blank line"
EMPTY_TEXT = "empty text"  # also text of white space alone
DROPPED = (BLANK_LINE, EMPTY_TEXT)


class AccountingError(ValueError):
    """Lines were lost or counted twice, which is a bug in the reader."""


class TooManyMalformed(ValueError):
    """More of a shard's lines are malformed than the limit allows. `samples` are the first of
    them, as file:line: reason."""

    def __init__(self, message: str, samples: Sequence[str], share: float) -> None:
        super().__init__(message, list(samples), share)  # all three, so that it survives pickling between processes
        self.samples, self.share = list(samples), share

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(kw_only=True)
class Accounting:
    """The lines of a JSON-lines file, or rows of a Parquet file, by what became of them."""

    lines: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Well-formed lines with nothing to train on, by reason."""
    malformed: Counter[str] = field(default_factory=Counter)
    """Lines left out because they cannot be read, by reason."""
    samples: list[str] = field(default_factory=list)
    """The first MAX_SAMPLES malformed lines, as line: reason, never with their text."""

    def drop(self, reason: str) -> None:
        self.lines += 1
        self.dropped[reason] += 1

    def leave_out(self, reason: str, sample: str) -> None:
        self.lines += 1
        self.malformed[reason] += 1
        if len(self.samples) < MAX_SAMPLES:
            self.samples.append(sample)

    @property
    def num_malformed(self) -> int:
        return self.malformed.total()

    @property
    def malformed_share(self) -> float:
        """Share of malformed lines among all lines; 0 if there are none."""
        return self.num_malformed / self.lines if self.lines else 0.0

    def check(self, name: str) -> None:
        """Raise AccountingError if a line is not counted, or counted twice."""
        parts = self.kept + self.dropped.total() + self.num_malformed
        if parts != self.lines:
            raise AccountingError(
                f"{name}: {self.lines} lines were read, but {self.kept} kept + {self.dropped.total()} dropped + {self.num_malformed} malformed "
                f"are {parts}. This is a bug in the reader; please report it."
            )

    def require_few_malformed(self, name: str, limit: float) -> None:
        """Raise TooManyMalformed above the limit, naming the shard, the counts and the first
        malformed line."""
        if self.malformed_share > limit:
            raise TooManyMalformed(
                f"{name}: {self.num_malformed} of {self.lines} lines ({self.malformed_share:.3%}) are malformed "
                f"({format_counts(self.malformed)}), more than corpus.max_malformed_share ({limit:.3%}) allows; the first is {name}:{self.samples[0]}. "
                "Repair or remove these lines, name another text field, or raise corpus.max_malformed_share.",
                [f"{name}:{sample}" for sample in self.samples],
                self.malformed_share,
            )

    def __str__(self) -> str:
        parts = [f"{self.lines} lines: {self.kept} kept"]
        if self.dropped:
            parts.append(f"{self.dropped.total()} dropped ({format_counts(self.dropped)})")
        if self.malformed:
            parts.append(f"{self.num_malformed} malformed and left out ({format_counts(self.malformed)})")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "malformed": dict(sorted(self.malformed.items())),
            "samples": list(self.samples),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Accounting":
        return cls(
            lines=content["lines"],
            kept=content["kept"],
            dropped=Counter(content["dropped"]),
            malformed=Counter(content["malformed"]),
            samples=list(content["samples"]),
        )


def total(parts: Mapping[str, Accounting]) -> Accounting:
    """The accounting of all shards together. Samples now include their shard's name."""
    whole = Accounting()
    for name, part in parts.items():
        part.check(name)
        whole.lines += part.lines
        whole.kept += part.kept
        whole.dropped += part.dropped
        whole.malformed += part.malformed
        whole.samples += [f"{name}:{sample}" for sample in part.samples[: MAX_SAMPLES - len(whole.samples)]]
    return whole


def format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
