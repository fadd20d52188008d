"""Corpus shards -> tokenizer and token blocks; question files -> facts and held-out questions (prepare_questions.py).

Shards are packed side by side; each part is written once.

The generated world, where a recipe has one, is made first, and read by the very readers that real data goes through.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import ray.data
from ray.data import TaskPoolStrategy

from memlm import storage
from memlm.config import Config, identity
from memlm.data import corpus as corpora
from memlm.data.corpus import BLOCKS_KIND, Part, write_corpus, write_part
from memlm.data.mixture import mixture_documents
from memlm.data.question_records import Question
from memlm.data.question_sources import source_content
from memlm.data.shards import ShardError, list_shards, write_shard
from memlm.data.tokenizer import load_tokenizer, train_tokenizer
from memlm.data.world import write_world
from memlm.jobs import prepare_questions
from memlm.jobs.checks import require_ready
from memlm.jobs.cluster import Progress, connect, handing_on_errors, num_processors, say
from memlm.jobs.shard_source import ShardSource
from memlm.jobs.sources import expand
from memlm.run import WORLD_KIND, Run, is_made, run_of

TOKENIZER_KIND = "tokenizer"
MIXTURE_KIND = "mixture"
MIXTURE_SHARD = "shard_00000000_mixture.jsonl.zst"


def run(config: Config) -> str:
    """Make the corpus and questions artifacts, or find them made; returns the corpus's uri."""
    run = run_of(config)
    require_ready(config)
    world = _make_world(config, run)
    # Everything that can be wrong with the input is found before work is done.
    train, validation = _shards(config, world)
    sources = prepare_questions.read_sources(config, world)
    uri = _make_corpus(config, run, world, train, validation, sources.mixture)
    prepare_questions.run(config, sources)
    return uri


def _make_corpus(
    config: Config,
    run: Run,
    world: Path | None,
    train: list[str],
    validation: list[str],
    known: list[Question],
) -> str:
    inputs = {"world": storage.read_manifest(run.world).digest} if world else {}
    wanted: dict[str, Any] = identity(config.corpus)
    inputs["sources"] = _sources_digest(config, world, [*train, *validation])
    if is_made(run.corpus, kind=corpora.KIND, config=wanted, inputs=inputs, part="corpus"):
        say(f"corpus: reusing {run.corpus}")
        return run.corpus
    with connect(config):
        mixture = [_make_mixture(config, run, world, known)] if config.corpus.mixture else []
        locate = partial(_locate, made={str(world or ""): run.world, **{path: run.mixture for path in mixture}})
        # The tokenizer is trained on the first shard and the mixture alone, so repairing another keeps it.
        learned_from = {**inputs, "sources": hashlib.sha256(_named([*train[:1], *mixture])).hexdigest()}
        tokenizer = _make_tokenizer(config, run, [*train[:1], *mixture], learned_from, locate)
        train = [*train, *mixture]
        parts = _pack_shards(config, run, tokenizer, [*train, *validation], locate)
        with storage.write_artifact(run.corpus, kind=corpora.KIND, config=wanted, inputs=inputs) as draft:
            write_corpus(
                draft.path,
                load_tokenizer(str(storage.open_artifact(tokenizer))),
                train=parts[: len(train)],
                validation=parts[len(train) :],
            )
            draft.details["num_blocks"] = sum(part.num_blocks for part in parts[: len(train)])
            draft.details["num_documents"] = sum(part.num_documents for part in parts[: len(train)])
    blocks = sum(part.num_blocks for part in parts)
    say(f"corpus: {blocks} blocks of {config.corpus.block_size} tokens in {run.corpus}")
    return run.corpus


def _make_world(config: Config, run: Run) -> Path | None:
    if config.world is None:
        return None
    wanted = identity(config.world)
    if not is_made(run.world, kind=WORLD_KIND, config=wanted, inputs={}, part="world"):
        say(f"world: generating seed {config.world.seed}")
        with storage.write_artifact(run.world, kind=WORLD_KIND, config=wanted) as draft:
            draft.details.update(write_world(config.world, draft.path))
    return storage.open_artifact(run.world, kind=WORLD_KIND)


def _shards(config: Config, world: Path | None) -> tuple[list[str], list[str]]:
    corpus = config.corpus
    train = list_shards(expand(corpus.path, "corpus.path", world))
    if corpus.validation_path:
        validation = list_shards(expand(corpus.validation_path, "corpus.validation_path", world))
    elif len(train) > 1:
        train, validation = train[:-1], train[-1:]
    else:
        raise ShardError(
            f"{train[0]} is the only shard of corpus.path, so none is left for validation; give corpus.validation_path"
        )
    return train[: corpus.max_shards or None], validation[: corpus.max_validation_shards or None]


def _sources_digest(config: Config, world: Path | None, shards: list[str]) -> str:
    """Names what was read: shards by name and size, the mixture's questions by content."""
    digest = hashlib.sha256(_named(shards))
    if config.corpus.mixture:
        digest.update(source_content(expand(config.corpus.mixture.path, "corpus.mixture.path", world)))
    return digest.hexdigest()


def _named(shards: list[str]) -> bytes:
    return "".join(f"{os.path.basename(shard)} {os.path.getsize(shard)}\n" for shard in shards).encode()


def _make_mixture(config: Config, run: Run, world: Path | None, questions: list[Question]) -> str:
    """The shard of documents that state and ask the mixture's facts."""
    mixture = config.corpus.mixture
    assert mixture is not None
    wanted = identity(mixture)
    content = source_content(expand(mixture.path, "corpus.mixture.path", world))
    inputs = {"questions": hashlib.sha256(content).hexdigest()}
    if not is_made(run.mixture, kind=MIXTURE_KIND, config=wanted, inputs=inputs, part="corpus.mixture"):
        say(f"mixture: {len(questions)} facts in {mixture.exposures} documents each")
        with storage.write_artifact(run.mixture, kind=MIXTURE_KIND, config=wanted, inputs=inputs) as draft:
            write_shard(str(draft.path / MIXTURE_SHARD), mixture_documents(questions, mixture))
    return str(storage.open_artifact(run.mixture, kind=MIXTURE_KIND) / MIXTURE_SHARD)


def _locate(shard: str, *, made: dict[str, str]) -> str:
    """A shard's path on the node that reads it: what this run made, if it lies on S3, is brought to each node."""
    for here, uri in made.items():
        if here and shard.startswith(here):
            return str(storage.open_artifact(uri)) + (shard.removeprefix(here) or f"/{MIXTURE_SHARD}")
    return shard


def _make_tokenizer(
    config: Config, run: Run, shards: list[str], inputs: dict[str, str], locate: Callable[[str], str]
) -> str:
    corpus = config.corpus
    uri = run.tokenizer
    wanted = {
        name: getattr(corpus, name) for name in ("path", "text_field", "tokenizer", "vocab_size", "tokenizer_documents")
    }
    if not is_made(uri, kind=TOKENIZER_KIND, config=wanted, inputs=inputs, part="corpus"):
        if corpus.tokenizer:
            tokenizer = load_tokenizer(corpus.tokenizer)
        else:
            say(
                f"tokenizer: training {corpus.vocab_size} tokens on {corpus.tokenizer_documents} documents of the first shard{', and of the mixture' if corpus.mixture else ''}"
            )
            sources = [ShardSource([shard], text_field=corpus.text_field, locate=locate) for shard in shards]
            rows = chain.from_iterable(
                ray.data.read_datasource(source).limit(corpus.tokenizer_documents).iter_rows() for source in sources
            )
            tokenizer = train_tokenizer((row["text"] for row in rows), vocab_size=corpus.vocab_size)
        with storage.write_artifact(uri, kind=TOKENIZER_KIND, config=wanted, inputs=inputs) as draft:
            tokenizer.save_pretrained(draft.path)
    return uri


def _pack_shards(
    config: Config, run: Run, tokenizer: str, shards: list[str], locate: Callable[[str], str]
) -> list[Part]:
    """One part per shard, in shard order, whatever order they were packed in."""
    inputs = {"tokenizer": storage.read_manifest(tokenizer).digest}
    tasks = [
        {
            "index": index,
            "shard": shard,
            "bytes": os.path.getsize(shard),
            "name": f"{corpora.BLOCKS_FOLDER}/part_{index:05d}",
        }
        for index, shard in enumerate(shards)
    ]
    text_field, block_size = config.corpus.text_field, config.corpus.block_size

    def pack_shard(task: dict[str, Any]) -> dict[str, Any]:
        wanted = {
            "shard": os.path.basename(task["shard"]),
            "bytes": int(task["bytes"]),
            "text_field": text_field,
            "block_size": block_size,
        }
        uri = storage.join(run.base, task["name"])
        with handing_on_errors():
            if not is_made(uri, kind=BLOCKS_KIND, config=wanted, inputs=inputs):
                with storage.write_artifact(uri, kind=BLOCKS_KIND, config=wanted, inputs=inputs) as draft:
                    loaded = load_tokenizer(str(storage.open_artifact(tokenizer)))
                    path = draft.path / corpora.BLOCKS_FILE
                    draft.details.update(
                        write_part(locate(task["shard"]), path, loaded, text_field=text_field, block_size=block_size)
                    )
        manifest = storage.read_manifest(uri)
        return {"index": task["index"], **asdict(Part(name=task["name"], digest=manifest.digest, **manifest.details))}

    progress = Progress("packing shards", len(tasks))
    parts: dict[int, Part] = {}
    for row in (
        ray.data.from_items(tasks, override_num_blocks=len(tasks))
        .map(pack_shard, compute=TaskPoolStrategy(size=num_processors(config)))
        .iter_rows()
    ):
        parts[row["index"]] = Part(**{name: value for name, value in row.items() if name != "index"})
        progress.advance()
    return [parts[index] for index in range(len(tasks))]
