"""Checkpoints of a recipe with a base, before its memory is trained: the base itself, in place of a
dense twin, and the base with a memory whose keys fit the corpus.

checkpoint-dense/      the base's weights, dequantised if it is GGUF, and its tokenizer
checkpoint-attached/   the same with a memory; its manifest has the gates. checkpoint-memory/, where
                       it is not trained
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.console import quiet, say
from memlm.jobs.tracked import log_config
from memlm.kinds import CHECKPOINT_KIND
from memlm.run import named_base, run_of, tracking_uri, twin_of_run
from memlm.tracking import Tracker

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from memlm.model.bases.base import Base
    from memlm.training.checkpoints.attaching import Background

EXPERIMENT = "memlm pretraining"


def make_base(config: Config) -> Artifact:
    """The base as a checkpoint of this run, written or reused. Raises BaseError if it cannot be
    used, and RunError if it is that of a run which has none."""
    quiet()
    base = _open(config)
    checkpoint = artifacts.checkpoint(config, "dense").made_from(base=base.digest)
    if checkpoint.is_made():
        say(f"base: reusing {checkpoint.uri}")
        return checkpoint
    with alone(run_of(config).pretraining_lease("dense")):
        if not checkpoint.is_made():  # unless another driver made it meanwhile
            _write_base(config, base, checkpoint)
    return checkpoint


def _open(config: Config) -> "Base":
    from memlm.model.bases.base import open_base  # imports torch

    twin = twin_of_run(config)
    if not twin:
        return open_base(config.model.base)
    folder = storage.open_artifact(twin, kind=CHECKPOINT_KIND)
    return replace(open_base(str(folder)), address=named_base(config))


def _write_base(config: Config, base: "Base", checkpoint: Artifact) -> None:
    from memlm.data.tokenizer import save_tokenizer
    from memlm.model.bases.base import BaseError, load_base, require_room
    from memlm.model.language_model import count_parameters
    from memlm.training.checkpoints.attaching import require_layer, tokenizer_of

    tokenizer = tokenizer_of(base)
    if tokenizer is None:
        raise BaseError(
            f"base {base.address}: it has no tokenizer, and a recipe reads text; put its tokenizer's files into its folder"
        )
    for layer in config.model.memory.layers:
        require_layer(base.config, "model.memory.layers", layer)
    memory = config.model.memory
    require_room(base, num_values=memory.num_slots * memory.num_pools * memory.value_dim)
    say(f"base: {base.address}, {base.family}, sha256 of its weights {base.digest[:16]}")
    with checkpoint.write() as draft:
        model = load_base(base)
        model.save_pretrained(draft.path)
        save_tokenizer(tokenizer, draft.path, max_length=base.config.max_position_embeddings)
        draft.details.update(base=base.address, parameters=asdict(count_parameters(model)))


def tokenizer_of_base(config: Config) -> "PreTrainedTokenizerBase":
    """The base's tokenizer as the corpus uses it: its pad token is used for nothing else, and has a
    row in the base's embeddings."""
    from memlm.data.tokenizer import load_tokenizer
    from memlm.model.language_model import load_model_config

    folder = artifacts.checkpoint(config, "dense").open()
    return load_tokenizer(str(folder), num_rows=load_model_config(folder).vocab_size)


def make_with_memory(config: Config) -> Artifact:
    """The base with a memory, whose keys are fitted to the corpus, written or reused."""
    checkpoint = artifacts.attached(config).pinned()
    if checkpoint.is_made():
        say(f"attach: reusing {checkpoint.uri}")
        return checkpoint
    tracker = Tracker(tracking_uri(config), EXPERIMENT)  # fails early if the tracking server does not answer
    with alone(run_of(config).pretraining_lease("memory")):
        if not checkpoint.is_made():  # unless another driver made it meanwhile
            _attach(config, checkpoint, tracker)
    return checkpoint


def _attach(config: Config, checkpoint: Artifact, tracker: Tracker) -> None:
    from memlm.model.language_model import load_checkpoint
    from memlm.training.checkpoints.attaching import with_fitted_memory
    from memlm.training.checkpoints.of_base import open_checkpoint_of_base, write_whole

    quiet()
    dense = artifacts.checkpoint(config, "dense")
    folder, address = dense.open(digest=checkpoint.digests()["base"]), str(dense.manifest().details["base"])
    memory, seed, probes = config.model.memory, config.pretraining.seed, config.model.num_probes
    _, tokenizer = open_checkpoint_of_base(folder, address)
    background = _background(config, checkpoint.digests()["corpus"])
    say(f"attach: {memory.num_slots:,} slots, keys fitted to {background.fitted.numel():,} tokens of the corpus")
    with checkpoint.write() as draft:
        own = load_checkpoint(folder, _device(config))
        model, measured = with_fitted_memory(own, memory, tokenizer, background, seed=seed, num_probes=probes)
        parameters = write_whole(model, folder, address, memory, draft.path)
        draft.details.update(base=address, parameters=asdict(parameters), gates=measured.as_json())
    for line in measured.lines():
        say(f"attach: {line}")
    _track(config, checkpoint, tracker, {f"gates/{name}": value for name, value in measured.numbers().items()})


def _background(config: Config, corpus_digest: str) -> "Background":
    """Blocks of the corpus, without those that end in pads."""
    from memlm.data.corpus.blocks import batch_ids
    from memlm.data.corpus.corpus import open_corpus
    from memlm.model.bases.key_fitting import num_tokens_to_fit
    from memlm.training.checkpoints.attaching import Background
    from memlm.training.checkpoints.background_text import without_pads

    corpus = open_corpus(artifacts.corpus(config).uri, digest=corpus_digest)
    blocks = corpus.train_blocks()
    number = config.model.key_tokens or num_tokens_to_fit(config.model.memory.num_half_keys)
    size = min(len(blocks), 2 * -(-number // blocks.block_size))
    ids = batch_ids(seed=config.pretraining.seed, step=0, batch_size=size, num_blocks=len(blocks))
    return Background.of(without_pads(blocks.take(ids), corpus.tokenizer))


def _device(config: Config) -> "torch.device":
    """A GPU if the config asks for one and this machine has it: the driver's need not."""
    import torch

    return torch.device("cuda" if config.cluster.use_gpu and torch.cuda.is_available() else "cpu")


def _track(config: Config, checkpoint: Artifact, tracker: Tracker, metrics: dict[str, float]) -> None:
    inputs, memory = checkpoint.digests(), config.model.memory
    tags = {"stage": "attach", "checkpoint": checkpoint.digest[:16], "data": inputs["corpus"][:16]}
    params = {"seed": config.pretraining.seed, "slots": memory.num_slots, "layers": str(memory.layers)}
    name = f"attach-{config.run_name}-{checkpoint.digest[:6]}"
    with tracker.run(f"attach/{checkpoint.digest}", name=name, params=params, tags=tags) as tracked:
        log_config(tracked, config)
        tracked.log_metrics(metrics)
