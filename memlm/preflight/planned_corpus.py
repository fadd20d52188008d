"""Plan of the corpus: the generated world, shards, tokens and blocks."""

from collections.abc import Sequence
from pathlib import Path

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data import dclm
from memlm.data.corpus.listing import Shard
from memlm.data.file_kinds import kind_of
from memlm.hub import HubUnreachable
from memlm.jobs.preparing.corpus_shards import choose_shards, sources_digest
from memlm.model.bases.packages import MissingPackage, is_in_package, path_in_package
from memlm.preflight.run_plan import RunPlan
from memlm.run import twin_of_run
from memlm.stages import RunError
from memlm.units import format_count, format_size


def plan_corpus(plan: RunPlan) -> None:
    config, corpus = plan.config, artifacts.corpus(plan.config)
    world = _world(plan)
    if refused := _missing_base(plan):
        plan.add("prepare_corpus", corpus.uri, refused, *_packing(config))
        return
    if config.world is not None and world is None:
        plan.add("prepare_corpus", corpus.uri, "to be made", *_packing(config), "from the generated world's shards")
        return
    inputs = plan.digests(world=artifacts.world(config)) if world is not None else {}
    if config.model.base:
        inputs |= plan.digests(base=artifacts.checkpoint(config, "dense"))
    if config.corpus.reads_samples and not _has_samples(config):
        plan.add("prepare_corpus", corpus.uri, "to be made", *_packing(config), "from texts that the base writes")
        return
    lines: list[str] = []
    try:
        train, validation = choose_shards(config, world, keep=False)
        lines = [_described("train", train, config), _described("validation", validation, config)]
        plan.num_blocks = (
            _estimated_tokens(train) / config.corpus.block_size if dclm.is_dclm(config.corpus.path) else None
        )
        inputs["sources"] = sources_digest(config, world, [*train, *validation])
        state = plan.state(corpus, **inputs)
    except ValueError as error:
        if dclm.is_dclm(config.corpus.path) and isinstance(error, HubUnreachable | storage.StorageError):
            lines = [f"could not be listed: {error}", *_published(plan)]
            state = plan.state(corpus)
        else:
            state = plan.obstacle(error)
    if state == "reused":
        plan.num_blocks = corpus.manifest().details["num_blocks"]
    blocks = f"{format_count(plan.num_blocks)} blocks to train on" if plan.num_blocks else ""
    plan.add("prepare_corpus", corpus.uri, state, *lines, *_packing(config), blocks)


def _world(plan: RunPlan) -> Path | None:
    """Plan the generated world; returns its folder if it exists."""
    config = plan.config
    if config.world is None:
        return None
    world = artifacts.world(config)
    state = plan.state(world)
    plan.world = world.open() if state == "reused" else None
    plan.add(
        "the generated world",
        world.uri,
        state,
        f"{config.world.num_documents} documents in {config.world.num_shards} shards, {config.world.num_known} known and "
        f"{config.world.num_new} new people, places and works",
    )
    return plan.world


def _missing_base(plan: RunPlan) -> str:
    """State of the corpus if its base is in a package that is not installed, or of a run that has
    none; empty otherwise."""
    config = plan.config
    if not config.model.base or artifacts.checkpoint(config, "dense").is_there():
        return ""
    try:
        if not twin_of_run(config) and is_in_package(config.model.base):
            path_in_package(config.model.base)
    except (MissingPackage, RunError) as error:
        return plan.obstacle(error)
    return ""


def _has_samples(config: Config) -> bool:
    base = artifacts.checkpoint(config, "dense")
    return base.is_there() and artifacts.samples(config, base=base.digest).is_there()


def _packing(config: Config) -> list[str]:
    corpus = config.corpus
    tokenizer = (
        corpus.tokenizer
        or (config.model.base and "the base's own")
        or f"trained, a vocabulary of {corpus.vocab_size}, on at most {corpus.tokenizer_documents} documents"
    )
    mixture = f"mixed with facts of {corpus.mixture.path}" if corpus.mixture else ""
    return [f"tokenizer: {tokenizer}; blocks of {corpus.block_size} tokens", mixture]


def _described(split: str, shards: Sequence[Shard], config: Config) -> str:
    corpus = config.corpus
    drawn = f"; a fraction of {corpus.fraction:g}, seed {corpus.sample_seed}" if corpus.fraction < 1 else ""
    tokens = (
        f", about {format_count(_estimated_tokens(shards))} tokens at DCLM's rate"
        if dclm.is_dclm(config.corpus.path)
        else ""
    )
    size = sum(shard.bytes for shard in shards)
    return f"{split}: {len(shards)} shards, {format_size(size)}{tokens}, from {shards[0].root}{drawn if split == 'train' else ''}"


def _estimated_tokens(shards: Sequence[Shard]) -> float:
    """Tokens in DCLM's shards, estimated from their bytes; other files have another rate."""
    kinds = [(shard, kind_of(shard.name)) for shard in shards]
    return dclm.TOKENS_PER_BYTE * sum(shard.bytes for shard, kind in kinds if kind and kind.compression == "zstd")


def _published(plan: RunPlan) -> list[str]:
    """Describe the sample by DCLM's published figures."""
    corpus = plan.config.corpus
    num_shards = max(1, round((dclm.NUM_SHARDS - (not corpus.validation_path)) * corpus.fraction))
    num_shards = min(num_shards, corpus.max_shards or num_shards)
    tokens = dclm.NUM_TOKENS / dclm.NUM_SHARDS * num_shards
    plan.num_blocks = tokens / corpus.block_size
    return [
        f"by DCLM's published figures ({dclm.NUM_SHARDS} shards of about {format_size(dclm.SHARD_BYTES)}, {format_count(dclm.NUM_TOKENS)} tokens):",
        f"train: about {num_shards} shards, {format_size(num_shards * dclm.SHARD_BYTES)}, {format_count(tokens)} tokens, from {corpus.path}"
        f"; a fraction of {corpus.fraction:g}, seed {corpus.sample_seed}",
    ]
