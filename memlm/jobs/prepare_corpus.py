"""Corpus shards -> tokenizer, token blocks, facts and questions. Shards are packed side by side; each part is written once.

The generated world, where a recipe has one, is made first, and read by the very readers that real data goes through.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray.data
from ray.data import TaskPoolStrategy

from memlm import storage
from memlm.config import Config, identity
from memlm.data import corpus as corpora
from memlm.data.corpus import BLOCKS_KIND, Part, write_corpus, write_part
from memlm.data.facts import Fact, facts_of_questions, read_facts
from memlm.data.questions import Question, read_questions
from memlm.data.shards import ShardError, list_shards
from memlm.data.tokenizer import load_tokenizer, train_tokenizer
from memlm.data.world import write_world
from memlm.jobs.cluster import Progress, connect, handing_on_errors, num_processors, say
from memlm.jobs.shard_source import ShardSource
from memlm.run import WORLD_KIND, Run, RunError, is_made, run_of

TOKENIZER_KIND = "tokenizer"


def run(config: Config) -> str:
    """Make the corpus artifact, or find it made; returns its uri."""
    run = run_of(config)
    world = _make_world(config, run)
    inputs = {"world": storage.read_manifest(run.world).digest} if world else {}
    wanted: dict[str, Any] = identity(config.corpus)
    # Everything that can be wrong with the input is found before work is done.
    train, validation = _shards(config, world)
    inputs["sources"] = _sources_digest(config, world, [*train, *validation])
    if is_made(run.corpus, kind=corpora.KIND, config=wanted, inputs=inputs, part="corpus"):
        say(f"corpus: reusing {run.corpus}")
        return run.corpus
    facts, held_out = _facts(config, world), _held_out(config, world)
    with connect(config):
        locate = partial(_locate, world_here=str(world or ""), world_uri=run.world)
        # The tokenizer is trained on the first shard alone, so repairing another keeps it.
        learned_from = {**inputs, "sources": hashlib.sha256(_named(train[:1])).hexdigest()}
        tokenizer = _make_tokenizer(config, run, train, learned_from, locate)
        parts = _pack_shards(config, run, tokenizer, [*train, *validation], locate)
        with storage.write_artifact(run.corpus, kind=corpora.KIND, config=wanted, inputs=inputs) as draft:
            write_corpus(
                draft.path,
                load_tokenizer(str(storage.open_artifact(tokenizer))),
                train=parts[: len(train)],
                validation=parts[len(train) :],
                facts=facts,
                held_out=held_out,
            )
            draft.details["num_blocks"] = sum(part.num_blocks for part in parts[: len(train)])
            draft.details["num_documents"] = sum(part.num_documents for part in parts[: len(train)])
    blocks = sum(part.num_blocks for part in parts)
    say(f"corpus: {blocks} blocks of {config.corpus.block_size} tokens, {len(facts)} facts, in {run.corpus}")
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


def _expand(path: str, field: str, world: Path | None) -> str:
    if "{world}" in path:
        if world is None:
            raise RunError(f"{field} is {path!r}, and the recipe has no generated world; give a path")
        path = path.replace("{world}", str(world))
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise RunError(f"{field} is {path!r}, and that environment variable is not set; set it, or give a path")
    if not os.path.exists(expanded):
        raise RunError(f"{field} is {expanded!r}, which does not exist; correct the path")
    return expanded


def _shards(config: Config, world: Path | None) -> tuple[list[str], list[str]]:
    corpus = config.corpus
    train = list_shards(_expand(corpus.path, "corpus.path", world))
    if corpus.validation_path:
        validation = list_shards(_expand(corpus.validation_path, "corpus.validation_path", world))
    elif len(train) > 1:
        train, validation = train[:-1], train[-1:]
    else:
        raise ShardError(
            f"{train[0]} is the only shard of corpus.path, so none is left for validation; give corpus.validation_path"
        )
    return train[: corpus.max_shards or None], validation


def _sources_digest(config: Config, world: Path | None, shards: list[str]) -> str:
    """Names what was read: shards by name and size, question files by content."""
    corpus, digest = config.corpus, hashlib.sha256(_named(shards))
    for path in [corpus.facts.path, corpus.facts.statements, *(held_out.path for held_out in corpus.held_out)]:
        if path:
            digest.update(Path(_expand(path, "a question file of corpus", world)).read_bytes())
    return digest.hexdigest()


def _named(shards: list[str]) -> bytes:
    return "".join(f"{os.path.basename(shard)} {os.path.getsize(shard)}\n" for shard in shards).encode()


def _facts(config: Config, world: Path | None) -> list[Fact]:
    source = config.corpus.facts
    questions = read_questions(_expand(source.path, "corpus.facts.path", world), source.layout)
    if source.statements:
        facts = read_facts(Path(_expand(source.statements, "corpus.facts.statements", world)), questions)
    else:
        facts = facts_of_questions(questions)
    return facts[: source.num_questions or None]


def _held_out(config: Config, world: Path | None) -> dict[str, list[Question]]:
    return {
        source.name: read_questions(_expand(source.path, f"corpus.held_out {source.name}", world), source.layout)[
            : source.num_questions or None
        ]
        for source in config.corpus.held_out
    }


def _locate(shard: str, *, world_here: str, world_uri: str) -> str:
    """A shard's path on the node that reads it: the world, if it lies on S3, is brought to each node."""
    if world_here and shard.startswith(world_here):
        return str(storage.open_artifact(world_uri, kind=WORLD_KIND)) + shard.removeprefix(world_here)
    return shard


def _make_tokenizer(
    config: Config, run: Run, shards: list[str], inputs: dict[str, str], locate: Callable[[str], str]
) -> str:
    corpus = config.corpus
    uri = storage.join(run.uri, "tokenizer")
    wanted = {
        name: getattr(corpus, name) for name in ("path", "text_field", "tokenizer", "vocab_size", "tokenizer_documents")
    }
    if not is_made(uri, kind=TOKENIZER_KIND, config=wanted, inputs=inputs, part="corpus"):
        if corpus.tokenizer:
            tokenizer = load_tokenizer(corpus.tokenizer)
        else:
            say(
                f"tokenizer: training {corpus.vocab_size} tokens on {corpus.tokenizer_documents} documents of the first shard"
            )
            source = ShardSource(shards[:1], text_field=corpus.text_field, locate=locate)
            rows = ray.data.read_datasource(source).limit(corpus.tokenizer_documents).iter_rows()
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
        uri = storage.join(run.uri, task["name"])
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
