"""Preparation of the data: tokenizer and token blocks from corpus shards, and facts and held-out
questions from question files (preparing/questions.py).

Shards are packed in parallel, and each part is written once. A shard that cannot be read, or that
kills its workers, is left out, up to a limit. If the recipe has a generated world, it is made
first, and read like real data.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray.data
from ray.data import TaskPoolStrategy

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.corpus.accounting import TooManyMalformed
from memlm.data.corpus.corpus import write_corpus, write_part
from memlm.data.corpus.listing import ChangedShard, Shard, list_corpus, open_shard
from memlm.data.corpus.mixture import mixture_documents
from memlm.data.corpus.shards import ShardError, write_shard
from memlm.data.paths import expand
from memlm.data.questions.records import Question
from memlm.data.questions.sources import source_content
from memlm.data.tokenizer import load_tokenizer, save_tokenizer
from memlm.data.world.world import write_world
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.attempts import ATTEMPT_NAMES, Attempts
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect, num_processors
from memlm.jobs.on_ray.console import Progress, say
from memlm.jobs.on_ray.workers import user_errors_as_raised
from memlm.jobs.preparing import base_samples
from memlm.jobs.preparing import questions as prepare_questions
from memlm.jobs.preparing.base_checkpoints import make_base, tokenizer_of_base
from memlm.jobs.preparing.corpus_shards import choose_shards, name_shards, sources_digest, unit_of
from memlm.jobs.preparing.packed_shards import (
    MALFORMED_SHARE,
    QUARANTINED_SHARE,
    PackedShards,
    Poison,
    require_within_limits,
)
from memlm.jobs.preparing.tokenizer_texts import Opener, train_on_first_readable
from memlm.kinds import BLOCKS_FILE, MIXTURE_SHARD
from memlm.run import run_of

KILLS = (
    "all corpus.max_attempts workers that packed it died, probably out of memory. "
    "See Ray's logs for why, and move blocks-attempts out of the run's folder to try it again."
)


def run(config: Config) -> str:
    """Make the corpus and the questions, or reuse them; return the corpus's uri."""
    require_ready(config)
    world = _make_world(config)
    if config.model.base:
        base = make_base(config)
        if config.corpus.reads_samples:
            base_samples.run(config, base)
    # Errors in the input are found before any work.
    train, validation = choose_shards(config, world)
    sources = prepare_questions.read_sources(config, world)
    corpus = _make_corpus(config, world, train, validation, sources.mixture)
    prepare_questions.run(config, sources)
    return corpus.uri


def _make_corpus(
    config: Config, world: Path | None, train: list[Shard], validation: list[Shard], known: list[Question]
) -> Artifact:
    sources = sources_digest(config, world, [*train, *validation])
    corpus = artifacts.corpus(config)
    corpus = corpus.made_from(**corpus.digests(), sources=sources)

    def is_there() -> bool:
        made = corpus.is_made()
        if made:
            require_within_limits(corpus.uri, corpus.manifest().details, _limits(config))
            say(f"corpus: reusing {corpus.uri}")
        return made

    if not is_there():
        with alone(run_of(config).corpus_lease):
            if not is_there():  # unless another driver made it meanwhile
                _pack_all(config, corpus, world, train, validation, known)
    return corpus


def _pack_all(
    config: Config,
    corpus: Artifact,
    world: Path | None,
    train: list[Shard],
    validation: list[Shard],
    known: list[Question],
) -> None:
    """Pack the missing shards and write the artifact."""
    with connect(config):
        made = {str(world): artifacts.world(config)} if world else {}
        if config.corpus.reads_samples:
            samples = artifacts.samples(config, base=artifacts.checkpoint(config, "dense").digest)
            made[str(samples.open())] = samples
        mixture = []
        if config.corpus.mixture:
            facts, shard = _make_mixture(config, world, known)
            made[shard.uri], mixture = facts, [shard]
        opener = partial(_open_here, made=made)
        # The tokenizer depends only on the first readable shard and the mixture, so repairing
        # another shard keeps it. If the first shard cannot be read, the next one is used until the
        # first is repaired.
        learned_from = {**corpus.digests(), "sources": hashlib.sha256(name_shards([*train[:1], *mixture])).hexdigest()}
        most = config.corpus.max_quarantined_share * len([*train, *mixture, *validation])
        tokenizer = _make_tokenizer(config, train, mixture, learned_from, opener, max_skipped=most)
        train = [*train, *mixture]
        packed = _pack_shards(config, tokenizer, [*train, *validation], opener)
        of_train, of_validation = packed.parts_of(train), packed.parts_of(validation)
        with corpus.write() as draft:
            write_corpus(
                draft.path,
                load_tokenizer(str(tokenizer.open())),
                train=of_train,
                validation=of_validation,
                accounts=packed.accounts(),
                quarantined=packed.quarantined(),
            )
            draft.details["num_blocks"] = sum(part.num_blocks for part in of_train)
            draft.details["num_documents"] = sum(part.num_documents for part in of_train)
            draft.details.update(packed.shares())
    storage.delete_made(run_of(config).packing_attempts, loose=ATTEMPT_NAMES)
    packed.report_accounts()
    blocks = sum(part.num_blocks for part in [*of_train, *of_validation])
    say(f"corpus: {blocks} blocks of {config.corpus.block_size} tokens in {corpus.uri}")


def _limits(config: Config) -> dict[str, float]:
    return {share: getattr(config.corpus, f"max_{share}") for share in (MALFORMED_SHARE, QUARANTINED_SHARE)}


def _make_world(config: Config) -> Path | None:
    if config.world is None:
        return None
    world = artifacts.world(config)
    if not world.is_made():
        say(f"world: generating seed {config.world.seed}")
        with world.write() as draft:
            draft.details.update(write_world(config.world, draft.path))
    return world.open()


def _make_mixture(config: Config, world: Path | None, questions: list[Question]) -> tuple[Artifact, Shard]:
    """Documents that state and ask about the mixture's facts, and the shard of these documents."""
    mixture = config.corpus.mixture
    assert mixture is not None
    content = source_content(expand(mixture.path, "corpus.mixture.path", world))
    facts = artifacts.mixture(config, questions=hashlib.sha256(content).hexdigest())
    if not facts.is_made():
        say(f"mixture: {len(questions)} facts in {mixture.exposures} documents each")
        with facts.write() as draft:
            write_shard(str(draft.path / MIXTURE_SHARD), mixture_documents(questions, mixture))
    (shard,) = list_corpus(str(facts.open() / MIXTURE_SHARD))
    return facts, shard


@contextmanager
def _open_here(shard: Shard, *, made: Mapping[str, Artifact]) -> Iterator[Path]:
    """Path of a shard on the node that reads it; each node copies and keeps shards that this run
    made on S3."""
    for here, artifact in made.items():
        if shard.uri.startswith(here):
            yield Path(str(artifact.open()) + (shard.uri.removeprefix(here) or f"/{MIXTURE_SHARD}"))
            return
    with open_shard(shard) as path:
        yield path


def _attempts(config: Config) -> Attempts:
    """Attempts of one pass over the shards."""
    return Attempts(
        uri=run_of(config).packing_attempts, session=f"{time.time_ns():x}", limit=config.corpus.max_attempts
    )


def _make_tokenizer(
    config: Config,
    shards: list[Shard],
    mixture: list[Shard],
    inputs: dict[str, str],
    opener: Opener,
    *,
    max_skipped: float,
) -> Artifact:
    corpus, made = config.corpus, artifacts.tokenizer(config).made_from(**inputs)
    if not made.is_made():
        trained_on = None
        if config.model.base:
            tokenizer = tokenizer_of_base(config)
        elif corpus.tokenizer:
            tokenizer = load_tokenizer(corpus.tokenizer)
        else:
            say(
                f"tokenizer: training {corpus.vocab_size} tokens on {corpus.tokenizer_documents} documents of the first shard{', and of the mixture' if mixture else ''}"
            )
            tokenizer, trained_on = train_on_first_readable(
                corpus, shards, mixture, opener, _attempts(config), max_skipped=max_skipped
            )
        with made.write() as draft:
            save_tokenizer(tokenizer, draft.path)
            draft.details.update({"trained_on": trained_on.identity} if trained_on else {})
    return made


def _pack_shards(config: Config, tokenizer: Artifact, shards: Sequence[Shard], opener: Opener) -> PackedShards:
    attempts, digest = _attempts(config), tokenizer.digest
    tasks = [{"index": index, "shard": json.dumps(asdict(shard))} for index, shard in enumerate(shards)]

    def pack_shard(task: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(**json.loads(task["shard"]))
        blocks = artifacts.blocks(config, task["index"], shard, tokenizer=digest)
        with user_errors_as_raised():
            poison = _pack_shard(config, shard, blocks, tokenizer, opener, attempts)
            manifest = None if poison else blocks.manifest()
        return {
            "index": task["index"],
            "poison": json.dumps(asdict(poison) if poison else None),
            "digest": manifest.digest if manifest else "",
            "details": json.dumps(manifest.details if manifest else {}),
        }

    progress = Progress("packing shards", len(tasks))
    packed = PackedShards(shards, limits=_limits(config))
    for row in (
        ray.data.from_items(tasks, override_num_blocks=len(tasks))
        .map(pack_shard, compute=TaskPoolStrategy(size=num_processors(config)))
        .iter_rows()
    ):
        shard = shards[row["index"]]
        if poison := json.loads(row["poison"]):
            packed.leave_out(shard, Poison(**poison))
        else:
            packed.add(shard, artifacts.blocks_name(row["index"]), row["digest"], json.loads(row["details"]))
        progress.advance(note=f"{packed.num_documents} documents")
    return packed


def _pack_shard(
    config: Config, shard: Shard, blocks: Artifact, tokenizer: Artifact, opener: Opener, attempts: Attempts
) -> Poison | None:
    """Make the part of one shard, or reuse it, in a worker. Returns the reason if the shard is left
    out, else None."""
    if blocks.is_made():
        if "accounting" in blocks.manifest().details:
            return None
        storage.delete_made(blocks.uri)  # packed by a version without accounts of lines
    if not attempts.on_this_node().begin(unit_of(shard)):
        return Poison(reason=f"{shard.uri}: {KILLS}")
    loaded = load_tokenizer(str(tokenizer.open(digest=blocks.digests()["tokenizer"])))
    try:
        with blocks.write() as draft, opener(shard) as path:
            num_blocks, accounting = write_part(
                str(path),
                draft.path / BLOCKS_FILE,
                loaded,
                text_field=config.corpus.text_field,
                block_size=config.corpus.block_size,
                max_malformed_share=config.corpus.max_malformed_share,
                name=shard.uri,
            )
            draft.details.update(num_blocks=num_blocks, accounting=accounting.to_json())
    except TooManyMalformed as error:
        for sample in error.samples:
            say(f"malformed: {sample}")
        return Poison(reason=str(error), malformed_share=error.share)
    except ChangedShard:
        raise
    except ShardError as error:
        return Poison(reason=str(error))
    return None
