"""Where does each product of a run lie, and is what lies there what was asked for?

A run is a folder under the storage root; a stage reads the artifacts of the stages before it and
makes one of its own.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memlm import storage
from memlm.config import Config
from memlm.identity import first_difference, identity
from memlm.kinds import CHECKPOINT_KIND, CORPUS_KIND, COUNTS_KIND, QUESTIONS_KIND, WORLD_KIND
from memlm.model.config import Architecture
from memlm.stages import RunError, options_for, require_tracking
from memlm.tracking import sqlite_uri
from memlm.training.trial import Trial


@dataclass(frozen=True)
class Run:
    """The artifacts of one run by name. What no question file changes lies with the run that it
    starts from, most often itself."""

    uri: str
    base: str
    """Where corpus, checkpoints and counts lie."""

    @property
    def world(self) -> str:
        return storage.join(self.base, "world")

    @property
    def corpus(self) -> str:
        return storage.join(self.base, "corpus")

    @property
    def tokenizer(self) -> str:
        return storage.join(self.base, "tokenizer")

    def listing(self, split: str) -> str:
        """The shards of a store that a split of the corpus is taken from, as they were listed."""
        return storage.join(self.base, f"listing-{split}")

    @property
    def mixture(self) -> str:
        """Facts put into documents, beside the corpus's own shards."""
        return storage.join(self.base, "mixture")

    def checkpoint(self, architecture: Architecture) -> str:
        return storage.join(self.base, f"checkpoint-{architecture}")

    def training_states(self, architecture: Architecture) -> str:
        """Where an unfinished pretraining keeps what it needs to go on."""
        return storage.join(self.base, f"training-{architecture}")

    def pretraining_lease(self, architecture: Architecture) -> str:
        """Who alone may pretrain."""
        return storage.join(self.base, "leases", f"pretrain-{architecture}")

    @property
    def counts(self) -> str:
        return storage.join(self.base, "counts")

    @property
    def partial_counts(self) -> str:
        return storage.join(self.base, "counts-partial")

    @property
    def counting_attempts(self) -> str:
        """Which units were begun, and how often."""
        return storage.join(self.base, "counts-attempts")

    @property
    def packing_attempts(self) -> str:
        """Which shards were begun, and how often."""
        return storage.join(self.base, "blocks-attempts")

    @property
    def questions(self) -> str:
        """The facts to learn and the held-out questions."""
        return storage.join(self.uri, "questions")

    @property
    def statements(self) -> str:
        """The facts to learn in a model's words."""
        return storage.join(self.uri, "statements")

    @property
    def documents(self) -> str:
        """The chunks of the documents to learn, augmented."""
        return storage.join(self.uri, "documents")

    @property
    def trials(self) -> str:
        """The sweep's ledger: one JSON per finished trial."""
        return storage.join(self.uri, "trials")

    @property
    def sweep_lease(self) -> str:
        """Who alone may sweep."""
        return storage.join(self.uri, "leases", "pareto_sweep")

    @property
    def counting_lease(self) -> str:
        """Who alone may count."""
        return storage.join(self.base, "leases", "count_accesses")

    @property
    def corpus_lease(self) -> str:
        """Who alone may make tokenizer and corpus."""
        return storage.join(self.base, "leases", "prepare_corpus")

    @property
    def documents_lease(self) -> str:
        """Who alone may augment the documents."""
        return storage.join(self.uri, "leases", "augment_documents")

    @property
    def statements_lease(self) -> str:
        """Who alone may have the facts stated."""
        return storage.join(self.uri, "leases", "write_statements")

    def learning_lease(self, key: str) -> str:
        """Who alone may do the finetune of that key."""
        return storage.join(self.uri, "leases", f"finetune-{key}")

    @property
    def base_trials(self) -> str:
        """The ledger of the run that this one starts from; a trial that both plan runs once."""
        return storage.join(self.base, "trials")

    def learned(self, key: str) -> str:
        """What a finetune of that key learned: patch and scores."""
        return storage.join(self.uri, "learned", key)

    def trace(self, key: str) -> str:
        """What the stream of that finetune did to each fact. Apart from what was learned, which
        patched checkpoints name by its digest."""
        return storage.join(self.uri, "learned", f"{key}-trace")


def run_of(config: Config) -> Run:
    """The folder of a config's run."""
    root = storage.require_absolute(config.storage, "--storage")
    if not config.run_name:
        raise RunError("--run-name is empty; it names the folder of the results, so give it one")
    uri = storage.join(root, config.run_name)
    return Run(uri, storage.join(root, config.base_run) if config.base_run else uri)


def tracking_uri(config: Config) -> str:
    """The MLflow server to log to: the one given, else a sqlite file beside the runs; empty for
    none."""
    if config.tracking == "off":
        return ""
    if config.tracking:
        return config.tracking
    require_tracking(config)
    return sqlite_uri(f"{config.storage}/mlflow.db")


def is_made(uri: str, *, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str], part: str = "") -> bool:
    """Whether the artifact is there, made from this config and these inputs. Raises RunError if
    from others.

    `part` is where the config stands in the whole, so that an error names the field as it is
    set.
    """
    if not storage.has_artifact(uri):
        return False
    manifest = storage.read_manifest(uri, kind)
    for name, wanted in inputs.items():
        if manifest.inputs.get(name) != wanted:
            raise RunError(
                f"{uri} was made from another {name} than the one in this run now; give another --run-name, or move {uri} away to make it again"
            )
    difference = first_difference(manifest.config, config, part)
    if difference is not None:
        field, made, wanted = difference
        raise RunError(
            f"{uri} was made with {field} = {made!r}, and now {field} = {wanted!r} is asked for; "
            f"give another --run-name, or set {field} back, or move {uri} away to make it again"
        )
    return True


def require_corpus(config: Config) -> storage.Manifest:
    """The manifest of this config's corpus. Raises RunError naming the command that makes it, or
    the field in which it differs."""
    run = run_of(config)
    inputs = {}
    if config.world is not None and is_made(
        run.world, kind=WORLD_KIND, config=identity(config.world), inputs={}, part="world"
    ):
        inputs["world"] = storage.read_manifest(run.world).digest
    made = is_made(run.corpus, kind=CORPUS_KIND, config=corpus_config(config), inputs=inputs, part="corpus")
    return _found(made, run.corpus, "prepare_corpus.py", config)


def require_questions(config: Config) -> storage.Manifest:
    """The manifest of this config's facts and held-out questions. Raises as require_corpus does."""
    run = run_of(config)
    made = is_made(run.questions, kind=QUESTIONS_KIND, config=questions_config(config), inputs={}, part="questions")
    return _found(made, run.questions, "prepare_corpus.py", config)


def require_checkpoint(config: Config, architecture: Architecture) -> storage.Manifest:
    """The manifest of this config's checkpoint, pretrained on this config's corpus. Raises as
    require_corpus does."""
    uri = run_of(config).checkpoint(architecture)
    inputs = {"corpus": require_corpus(config).digest}
    made = is_made(uri, kind=CHECKPOINT_KIND, config=checkpoint_config(config, architecture), inputs=inputs)
    return _found(made, uri, f"pretrain.py --architecture {architecture}", config)


def require_counts(config: Config) -> storage.Manifest:
    """The manifest of the background counts of this config's memory model. Raises as
    require_corpus does."""
    uri = run_of(config).counts
    inputs = {"checkpoint": require_checkpoint(config, "memory").digest, "corpus": require_corpus(config).digest}
    made = is_made(uri, kind=COUNTS_KIND, config=counts_config(config), inputs=inputs, part="counting")
    return _found(made, uri, "count_accesses.py", config)


def trial_inputs(config: Config, architecture: Architecture) -> dict[str, str]:
    """The digests of all that a trial reads. Raises RunError naming the command that makes what
    is missing or does not fit."""
    inputs = {
        "corpus": require_corpus(config).digest,
        "questions": require_questions(config).digest,
        "checkpoint": require_checkpoint(config, architecture).digest,
    }
    if architecture == "memory":
        inputs["counts"] = require_counts(config).digest
    return inputs


def trial_of(config: Config) -> Trial:
    return Trial(method=config.method, stream=config.stream, evaluation=config.evaluation, seed=config.seed)


def corpus_config(config: Config) -> dict[str, Any]:
    return identity(config.corpus, of=CORPUS_KIND)


def checkpoint_config(config: Config, architecture: Architecture) -> dict[str, Any]:
    """The settings that name a checkpoint; the dense model's have none of the pool."""
    return {
        "architecture": architecture,
        "model": identity(config.model, of=architecture),
        "pretraining": identity(config.pretraining, of=architecture),
    }


def questions_config(config: Config) -> dict[str, Any]:
    """What names the questions: with overlaps removed, the training mixture too; with documents
    that a model augments, the writer."""
    mixture = config.corpus.mixture if config.questions.remove_overlap else None
    documents = config.questions.documents
    written = documents is not None and documents.augmenter != "rules"
    return {
        **identity(config.questions, of=QUESTIONS_KIND),
        **({"mixture": identity(mixture)} if mixture else {}),
        **({"writer": config.writer.provenance(config.writer.revision)} if written else {}),
    }


def counts_config(config: Config) -> dict[str, Any]:
    return identity(config.counting)


def _found(made: bool, uri: str, made_by: str, config: Config) -> storage.Manifest:
    if not made:
        raise RunError(f"{uri} is missing; make it with: {command(made_by, config)}")
    return storage.read_manifest(uri)


def command(pipeline: str, config: Config) -> str:
    """The command line of another stage of the same run: the same recipe, and those of its
    overrides that this stage uses."""
    file, *options = pipeline.split()
    arguments = options_for(file.removesuffix(".py"), config.arguments)
    return " ".join(["python", f"pipelines/{file}", config.recipe, *map(shlex.quote, arguments), *options])
