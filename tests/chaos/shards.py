"""Corpus shards that are damaged, crafted or cut: the reader accounts for every line, in bounded
memory."""

from tests.chaos.frame import Outcome, Row
from tests.data.corpus.shard_mutants import compare

FULL, SMALL = 20_000, 400


def mutate_shards(seed: int, small: bool) -> Outcome:
    """Read each mutant with memlm's reader and with the plain one, which must agree on all
    documents and counts."""
    found = compare(seed, 0, SMALL if small else FULL)
    if found.failed:
        raise RuntimeError(found.failed)
    return Outcome(
        tries=found.tries,
        survived=found.tries - len(found.differences),
        differences=len(found.differences),
        details={
            "growth_bytes": found.growth_bytes,
            "outcomes": dict(found.outcomes),
            "kinds": dict(found.kinds),
            "differing": found.differences[:10],
        },
    )


ROWS = [
    Row(
        name="shard_mutations",
        bar="20,000 inputs, no crash, hang or growth over 256 MiB; the accounting identity holds each time",
        tries=FULL,
        run=mutate_shards,
        seconds=240,
        small_seconds=10,
    )
]
