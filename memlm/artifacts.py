"""The products of a run, each as one `Artifact`: its address, its kind, the settings that name it,
and its inputs.

    world, listing
    corpus <- world, sources (tokenizer, mixture, blocks on the way)
    known <- checkpoint, sources      documents <- sources, corpus
    questions <- sources, documents, known                             statements <- questions
    checkpoint <- corpus (with a base: checkpoint-dense <- base, samples <- checkpoint-dense,
        corpus <- checkpoint-dense, checkpoint-attached <- corpus, checkpoint-dense,
        checkpoint-memory and control <- these three)
    counts, reads <- checkpoint, corpus (by units)
    learned, trace <- corpus, questions, checkpoint, counts (and reads, for methods that use them)

Folders for leases, attempts and unfinished work are no artifacts; run.py names them. This module
imports no torch.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from memlm import storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.config import WITHOUT_WRITER, QuestionSetConfig
from memlm.data.paths import expand
from memlm.data.prompts import digest_of
from memlm.data.questions.sources import source_content
from memlm.identity import identity
from memlm.kinds import (
    BLOCKS_KIND,
    CHECKPOINT_KIND,
    CONTROL_KIND,
    CORPUS_KIND,
    COUNTS_KIND,
    DOCUMENTS_KIND,
    KNOWN_KIND,
    LISTING_KIND,
    MIXTURE_KIND,
    PARTIAL_COUNTS_KIND,
    PARTIAL_READS_KIND,
    PATCH_KIND,
    QUESTIONS_KIND,
    READS_KIND,
    SAMPLES_KIND,
    STATEMENTS_KIND,
    TOKENIZER_KIND,
    TRACE_KIND,
    WORLD_KIND,
    WRITTEN_UNIT_KIND,
)
from memlm.methods.config import MethodConfig
from memlm.model.config import Architecture
from memlm.run import command, run_of
from memlm.stages import require_documents
from memlm.training.trial import Trial

if TYPE_CHECKING:
    from memlm.data.corpus.listing import Shard

LEARNED = "learned"
"""Folder of a run's patches and traces."""


def world(config: Config) -> Artifact:
    """The generated world, for a recipe that has one."""
    assert config.world is not None
    return Artifact(
        uri=storage.join(run_of(config).base, "world"),
        kind=WORLD_KIND,
        identity=identity(config.world),
        part="world",
        made_by=command("prepare_corpus.py", config),
        is_spent=True,
    )


def listing(config: Config, split: str, root: str, part: str) -> Artifact:
    """The shards of a store that a split of the corpus is taken from, as they were listed."""
    uri = storage.join(run_of(config).base, f"listing-{split}")
    return Artifact(uri=uri, kind=LISTING_KIND, identity={"path": root}, part=part)


def mixture(config: Config, *, questions: str) -> Artifact:
    """Facts put into documents, in addition to the corpus's own shards; made from question files
    of that digest."""
    assert config.corpus.mixture is not None
    return Artifact(
        uri=storage.join(run_of(config).base, "mixture"),
        kind=MIXTURE_KIND,
        identity=identity(config.corpus.mixture),
        inputs={"questions": questions},
        part="corpus.mixture",
    )


def tokenizer(config: Config) -> Artifact:
    return Artifact(
        uri=storage.join(run_of(config).base, "tokenizer"),
        kind=TOKENIZER_KIND,
        identity=identity(config.corpus, of=TOKENIZER_KIND),
        part="corpus",
    )


def blocks(config: Config, index: int, shard: "Shard", *, tokenizer: str) -> Artifact:
    """The token blocks of one shard, made with the tokenizer of that digest."""
    return Artifact(
        uri=storage.join(run_of(config).base, blocks_name(index)),
        kind=BLOCKS_KIND,
        identity={**shard.identity, **identity(config.corpus, of=BLOCKS_KIND)},
        inputs={"tokenizer": tokenizer},
    )


def blocks_name(index: int) -> str:
    """Address of a shard's blocks, relative to the run's folder."""
    return f"{BLOCKS_KIND}/part_{index:05d}"


def corpus(config: Config) -> Artifact:
    return Artifact(
        uri=storage.join(run_of(config).base, "corpus"),
        kind=CORPUS_KIND,
        identity=identity(config.corpus, of=CORPUS_KIND),
        inputs={
            **({"world": world(config)} if config.world is not None else {}),
            **({"base": checkpoint(config, "dense")} if config.model.base else {}),
        },
        part="corpus",
        made_by=command("prepare_corpus.py", config),
    )


def questions(config: Config) -> Artifact:
    """The facts to learn and the held-out questions. With overlaps removed, the training mixture
    names them too; with documents that a model augments, the writer."""
    mixture = config.corpus.mixture if config.questions.remove_overlap else None
    documents = config.questions.documents
    written = documents is not None and documents.augmenter not in WITHOUT_WRITER
    return Artifact(
        uri=storage.join(run_of(config).uri, "questions"),
        kind=QUESTIONS_KIND,
        identity={
            **identity(config.questions, of=QUESTIONS_KIND),
            **({"mixture": identity(mixture)} if mixture else {}),
            **({"writer": config.writer.provenance(config.writer.revision)} if written else {}),
        },
        part="questions",
        made_by=command("prepare_corpus.py", config),
    )


def known(config: Config, source: QuestionSetConfig, *, questions: str, examples: str) -> Artifact:
    """What the model before learning answers to the questions of a source; made from questions and
    examples of these digests. Sets that choose from one source share it."""
    asked = QuestionSetConfig(**{each.name: getattr(source, each.name) for each in fields(QuestionSetConfig)})
    named = {
        "source": identity(replace(asked, skip=0, num_questions=0, base_answers="any")),
        "known": identity(config.questions.known),
    }
    name = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]
    return Artifact(
        uri=storage.join(run_of(config).base, f"known-{name}"),
        kind=KNOWN_KIND,
        identity=named,
        inputs={"checkpoint": checkpoint(config, "dense"), "questions": questions, "examples": examples},
        part="questions",
        made_by=command("prepare_corpus.py", config),
    )


def samples(config: Config, *, base: str) -> Artifact:
    """Background text that the model in the checkpoint of that digest writes."""
    settings = config.corpus.samples
    assert settings is not None
    shown = config.questions.examples if settings.questions else None
    asked = {"questions": settings.questions, "examples": shown} if settings.questions else {}
    return Artifact(
        uri=storage.join(run_of(config).base, "samples"),
        kind=SAMPLES_KIND,
        identity=identity(settings),
        inputs={"checkpoint": base} | {name: _content_digest(each) for name, each in asked.items() if each},
        part="corpus.samples",
        made_by=command("prepare_corpus.py", config),
    )


def _content_digest(source: QuestionSetConfig) -> str:
    path = expand(source.path, "corpus.samples.questions.path", None)
    return hashlib.sha256(source_content(path)).hexdigest()


def documents(config: Config, *, revision: str | None, prompts: Sequence[str]) -> Artifact:
    """The chunks of the documents to learn, augmented by the writer of that revision with these
    prompts; by rules without one."""
    named: dict[str, Any] = {"documents": identity(require_documents(config))}
    if revision is not None:
        named |= {"writer": config.writer.provenance(revision), "prompts": {"digest": digest_of(prompts)}}
    return Artifact(
        uri=storage.join(run_of(config).uri, "documents"),
        kind=DOCUMENTS_KIND,
        identity=named,
        inputs={"corpus": corpus(config)},
        made_by=command("augment_documents.py", config),
    )


def statements(config: Config, *, revision: str, prompts: Sequence[str]) -> Artifact:
    """The facts to learn in the words of a model of that revision, asked with these prompts."""
    return Artifact(
        uri=storage.join(run_of(config).uri, "statements"),
        kind=STATEMENTS_KIND,
        identity=_statements_identity(config, revision, prompts, of=STATEMENTS_KIND),
        made_by=command("write_statements.py", config),
    )


def unit_of_statements(config: Config, *, revision: str, prompts: Sequence[str]) -> dict[str, Any]:
    """Settings that the statements of a unit depend on, in addition to its facts."""
    return _statements_identity(config, revision, prompts, of=WRITTEN_UNIT_KIND)


def _statements_identity(config: Config, revision: str, prompts: Sequence[str], *, of: str) -> dict[str, Any]:
    return {
        "facts": identity(config.questions.facts, of=STATEMENTS_KIND),
        "writer": config.writer.provenance(revision),
        "prompts": digest_of(prompts),
        **identity(config.wordings, of=of),
    }


def written_unit(uri: str, items: str, decided_by: Mapping[str, Any]) -> Artifact:
    """The records written about a few items, which are given as JSON. `decided_by` holds every
    other setting that the records depend on."""
    digest = hashlib.sha256(items.encode()).hexdigest()
    return Artifact(uri=uri, kind=WRITTEN_UNIT_KIND, identity={**decided_by, "items": digest})


def checkpoint(config: Config, architecture: Architecture) -> Artifact:
    """The pretrained model; the dense one's name has no settings of the pool. Of a recipe with a
    base, the base itself, or the base with its memory."""
    if config.model.base:
        return _base(config) if architecture == "dense" else _with_memory(config)
    return Artifact(
        uri=storage.join(run_of(config).base, f"checkpoint-{architecture}"),
        kind=CHECKPOINT_KIND,
        identity={
            "architecture": architecture,
            "model": identity(config.model, of=architecture),
            "pretraining": identity(config.pretraining, of=architecture),
        },
        inputs={"corpus": corpus(config)},
        made_by=command(f"pretrain.py --architecture {architecture}", config),
    )


def _base(config: Config) -> Artifact:
    return Artifact(
        uri=storage.join(run_of(config).base, "checkpoint-dense"),
        kind=CHECKPOINT_KIND,
        identity={"architecture": "dense", "model": identity(config.model, of="dense")},
        made_by=command("pretrain.py --architecture dense", config),
    )


def attached(config: Config) -> Artifact:
    """The base with a memory whose keys are fitted to the corpus, before it is trained; the memory
    checkpoint itself, if it is not."""
    name = "checkpoint-attached" if config.pretraining.num_steps else "checkpoint-memory"
    return Artifact(
        uri=storage.join(run_of(config).base, name),
        kind=CHECKPOINT_KIND,
        identity={
            "architecture": "memory",
            "model": identity(config.model, of="memory"),
            "seed": config.pretraining.seed,
        },
        inputs={"base": _base(config), "corpus": corpus(config)},
        made_by=command("pretrain.py --architecture memory", config),
    )


def _with_memory(config: Config) -> Artifact:
    start = attached(config)
    if not config.pretraining.num_steps:
        return start
    return replace(
        start,
        uri=storage.join(run_of(config).base, "checkpoint-memory"),
        identity={
            "architecture": "memory",
            "model": identity(config.model, of="memory"),
            "pretraining": identity(config.pretraining, of="memory"),
        },
        inputs={**start.inputs, "attached": start},
    )


def control(config: Config) -> Artifact:
    """The dense network in the place of a base's memory, trained as that is, and what is measured
    of it."""
    trained = _with_memory(config)
    return replace(
        trained,
        uri=storage.join(run_of(config).base, CONTROL_KIND),
        kind=CONTROL_KIND,
        identity={**trained.identity, "architecture": CONTROL_KIND},
        made_by=command("pretrain.py --architecture memory --pretraining.control", config),
    )


def counts(config: Config) -> Artifact:
    """The background counts of the memory model."""
    return Artifact(
        uri=storage.join(run_of(config).base, "counts"),
        kind=COUNTS_KIND,
        identity=identity(config.counting, of=COUNTS_KIND),
        inputs={"checkpoint": checkpoint(config, "memory"), "corpus": corpus(config)},
        part="counting",
        made_by=command("count_accesses.py", config),
    )


def reads(config: Config) -> Artifact:
    """The background reads of the memory model, of a sample of the text that is counted."""
    return replace(
        counts(config),
        uri=storage.join(run_of(config).base, "reads"),
        kind=READS_KIND,
        identity=identity(config.counting, of=READS_KIND),
    )


def partial_counts(config: Config, unit: range) -> Artifact:
    """The counts of one unit of micro-batches."""
    return _part_of(counts(config), unit, PARTIAL_COUNTS_KIND)


def partial_reads(config: Config, unit: range) -> Artifact:
    """The reads of one unit of micro-batches."""
    return _part_of(reads(config), unit, PARTIAL_READS_KIND)


def _part_of(whole: Artifact, unit: range, kind: str) -> Artifact:
    return replace(
        whole,
        uri=storage.join(whole.units, unit_name(unit.start, unit.stop)),
        kind=kind,
        identity={**whole.identity, "first": unit.start, "last": unit.stop},
        part="",
    )


def unit_name(first: int, last: int) -> str:
    """Name of the unit of the items from `first` up to, but not including, `last`."""
    return f"unit_{first:07d}_{last:07d}"


def trial_of(config: Config) -> Trial:
    return Trial(method=config.method, stream=config.stream, evaluation=config.evaluation, seed=config.seed)


def trial_inputs(config: Config, architecture: Architecture, methods: Collection[MethodConfig] = ()) -> dict[str, str]:
    """Digests of all artifacts that trials of these methods read, with the background reads if one
    uses them, and of the choice of background text if one uses that. Raises RunError as
    `Artifact.require` does."""
    read = {"corpus": corpus(config), "questions": questions(config), "checkpoint": checkpoint(config, architecture)}
    if architecture == "memory":
        read["counts"] = counts(config)
    if any(method.uses_reads for method in methods):
        read["reads"] = reads(config)
    digests = {name: each.require().digest for name, each in read.items()}
    if any(method.uses_text for method in methods):
        digests["text"] = _background_text(config, digests["corpus"])
    return digests


def _background_text(config: Config, corpus_digest: str) -> str:
    """Digest of the choice of background text: the corpus, and which of its blocks are counted."""
    chosen = {"corpus": corpus_digest, "counting": identity(config.counting, of=COUNTS_KIND)}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def learned(config: Config, inputs: Mapping[str, str]) -> Artifact:
    """The patch and the scores of the config's trial, on inputs of these digests."""
    return Artifact(
        uri=storage.join(run_of(config).uri, LEARNED, learned_name(config, inputs)),
        kind=PATCH_KIND,
        identity={"method": identity(config.method), "seed": config.seed},
        inputs=inputs,
        made_by=command("finetune.py", config),
    )


def learned_name(config: Config, inputs: Mapping[str, str]) -> str:
    return f"{config.method.label}-{trial_of(config).key(dict(inputs))}"


def trace(config: Config, inputs: Mapping[str, str]) -> Artifact:
    """The effect of that trial's stream on each fact. An artifact of its own, because patched
    checkpoints name the patch by its digest."""
    patch = learned(config, inputs)
    return replace(patch, uri=f"{patch.uri}-trace", kind=TRACE_KIND)
