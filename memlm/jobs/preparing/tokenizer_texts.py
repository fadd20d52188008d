"""Training of the tokenizer, on the first documents of the first readable shard and equally many of
the mixture.

A worker reads the shards, as in packing: a shard that cannot be read, or that kills its workers, is
skipped, up to the limit for quarantine.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import ray.data
from transformers import PreTrainedTokenizerBase

from memlm.data.corpus.accounting import Accounting, TooManyMalformed
from memlm.data.corpus.config import CorpusConfig
from memlm.data.corpus.listing import ChangedShard, Shard
from memlm.data.corpus.shards import ShardError, read_documents
from memlm.data.tokenizer import train_tokenizer
from memlm.jobs.on_ray.attempts import Attempts
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.workers import user_errors_as_raised
from memlm.jobs.preparing.corpus_shards import unit_of

TEXTS_PER_BATCH = 1000
KILLS = (
    "all corpus.max_attempts workers that read it for the tokenizer died, probably out of memory. "
    "See Ray's logs for why, and move blocks-attempts and tokenizer out of the run's folder to try it again."
)

Opener = Callable[[Shard], AbstractContextManager[Path]]
"""Function that returns a shard's path on the node that reads it."""


def train_on_first_readable(
    corpus: CorpusConfig,
    shards: Sequence[Shard],
    mixture: Sequence[Shard],
    opener: Opener,
    attempts: Attempts,
    *,
    max_skipped: float,
) -> tuple[PreTrainedTokenizerBase, Shard]:
    """Train the tokenizer; return it with the shard that it was trained on.

    Raises ShardError if more than `max_skipped` shards cannot be read, or if one of the mixture's
    cannot.
    """
    for passed_over, shard in enumerate(shards, start=1):
        try:
            texts = chain.from_iterable(_first_texts(each, corpus, opener, attempts) for each in (shard, *mixture))
            return train_tokenizer(texts, vocab_size=corpus.vocab_size), shard
        except _Unreadable as error:
            if error.shard != shard or passed_over > max_skipped:
                raise ShardError(error.reason) from error
            say(f"tokenizer: not trained on a shard that cannot be read: {error.reason}")
    raise ShardError(f"none of {len(shards)} shards can be read")


class _Unreadable(Exception):
    """A shard cannot be read. Packing will leave it out, or refuse it, for the same reason."""

    def __init__(self, shard: Shard, reason: str) -> None:
        super().__init__(shard, reason)
        self.shard, self.reason = shard, reason


def _first_texts(shard: Shard, corpus: CorpusConfig, opener: Opener, attempts: Attempts) -> Iterator[str]:
    def read(_: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        with user_errors_as_raised():
            yield from _read(shard, corpus, opener, attempts.on_this_node())

    for row in ray.data.range(1).map_batches(read).iter_rows():
        if row["unreadable"]:
            raise _Unreadable(shard, row["unreadable"])
        yield row["text"]
    # Ray keeps the rows of an attempt that died, and drops those of the next one in their
    # place, which may include the row with the reason.
    if attempts.is_quarantined(unit_of(shard)):
        raise _Unreadable(shard, f"{shard.uri}: {KILLS}")


def _read(shard: Shard, corpus: CorpusConfig, opener: Opener, attempts: Attempts) -> Iterator[dict[str, list[str]]]:
    """Batches of texts, or one row with the reason why there are none; runs in a worker."""
    if not attempts.begin(unit_of(shard)):
        yield {"text": [""], "unreadable": [f"{shard.uri}: {KILLS}"]}
        return
    accounting = Accounting()
    try:
        with opener(shard) as path:
            documents = read_documents(str(path), text_field=corpus.text_field, accounting=accounting, name=shard.uri)
            asked = islice(documents, corpus.tokenizer_documents)
            while texts := [document.text for document in islice(asked, TEXTS_PER_BATCH)]:
                yield {"text": texts, "unreadable": [""] * len(texts)}
            if accounting.kept < corpus.tokenizer_documents:  # the whole shard was read
                accounting.require_few_malformed(shard.uri, corpus.max_malformed_share)
    except ChangedShard:
        raise
    except (ShardError, TooManyMalformed) as error:
        yield {"text": [""], "unreadable": [str(error)]}
