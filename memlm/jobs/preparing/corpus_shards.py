"""Choice of a corpus's shards for training and validation. A listing of S3 or the hub is stored
with the run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from memlm import artifacts
from memlm.config import Config
from memlm.data.corpus.listing import Shard, is_stored, list_corpus, read_listing, sample_shards, write_listing
from memlm.data.corpus.shards import ShardError
from memlm.data.paths import SAMPLES, PathError, expand
from memlm.data.questions.sources import source_content
from memlm.jobs.on_ray.console import say

TRAIN, VALIDATION = "train", "validation"


def choose_shards(config: Config, world: Path | None, *, keep: bool = True) -> tuple[list[Shard], list[Shard]]:
    """Choose the shards for training and for validation. With `keep`, a new listing of S3 or the
    hub is stored.

    Raises ShardError if no shard is left for one of them, and RunError if the stored listing is of
    another address or revision.
    """
    corpus = config.corpus
    train = _list(config, TRAIN, corpus.path, world, keep=keep)
    if corpus.validation_path:
        validation = _list(config, VALIDATION, corpus.validation_path, world, keep=keep)
    elif len(train) > 1:
        train, validation = train[:-1], train[-1:]
    else:
        raise ShardError(
            f"{train[0].uri} is the only shard of corpus.path, so none is left for validation; give corpus.validation_path"
        )
    sampled = sample_shards(train, fraction=corpus.fraction, seed=corpus.sample_seed)
    if not sampled:
        raise ShardError(
            f"corpus.fraction is {corpus.fraction}, and with corpus.sample_seed {corpus.sample_seed} selects none of {len(train)} shards; raise it"
        )
    return sampled[: corpus.max_shards or None], validation[: corpus.max_validation_shards or None]


def name_shards(shards: Sequence[Shard]) -> bytes:
    """Digest of the content of these shards."""
    return "".join(f"{' '.join(map(str, shard.identity.values()))}\n" for shard in shards).encode()


def sources_digest(config: Config, world: Path | None, shards: Sequence[Shard]) -> str:
    """Digest of the sources: each shard by name, size and, if known, version; the mixture's
    questions by content."""
    digest = hashlib.sha256(name_shards(shards))
    if config.corpus.mixture:
        digest.update(source_content(expand(config.corpus.mixture.path, "corpus.mixture.path", world)))
    return digest.hexdigest()


def unit_of(shard: Shard) -> str:
    """Name of a shard's attempts. It is unique, and changes when the shard is repaired, so that the
    shard is tried again."""
    return f"shard_{hashlib.sha256(f'{shard.uri} {shard.bytes} {shard.version}'.encode()).hexdigest()[:16]}"


def _samples(config: Config) -> str:
    """Folder of the texts that the base wrote."""
    if config.corpus.samples is None:
        raise PathError(
            f"the corpus is {config.corpus.path!r}, and corpus.samples says not to let the base write texts; set it, or name another path"
        )
    return str(artifacts.samples(config, base=artifacts.checkpoint(config, "dense").digest).open())


def _list(config: Config, split: str, path: str, world: Path | None, *, keep: bool) -> list[Shard]:
    field = "corpus.path" if split == TRAIN else "corpus.validation_path"
    root = expand(path.replace(SAMPLES, _samples(config)) if SAMPLES in path else path, field, world)

    def report(message: str) -> None:
        say(f"{field}: {message}")

    if not is_stored(root):
        return list_corpus(root, report=report)
    part = "corpus" if split == TRAIN else "corpus, for validation"
    listing = artifacts.listing(config, split, root, part)
    if listing.is_made():
        return read_listing(listing.open(), root)
    shards = list_corpus(root, report=report)
    if keep:
        with listing.write() as draft:
            write_listing(draft.path, shards)
            draft.details.update(num_shards=len(shards), bytes=sum(shard.bytes for shard in shards))
        digest = hashlib.sha256(name_shards(shards)).hexdigest()[:16]
        say(f"listing: {len(shards)} shards in {root}, kept in {listing.uri} ({digest})")
    return shards
