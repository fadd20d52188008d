"""Where does each product of a run lie, and is what lies there what was asked for?

A run is a folder under the storage root; a stage reads the artifacts of the stages before it and
makes one of its own.
"""

import shlex
from dataclasses import dataclass

from memlm import storage
from memlm.config import Config
from memlm.model.config import Architecture
from memlm.stages import RunError, options_for, require_tracking
from memlm.tracking import sqlite_uri


@dataclass(frozen=True)
class Run:
    """The artifacts of one run by name. What no question file changes lies with the run that it
    starts from, most often itself."""

    uri: str
    base: str
    """Where corpus, checkpoints and counts lie."""

    def training_states(self, architecture: Architecture) -> str:
        """Where an unfinished pretraining keeps what it needs to go on."""
        return storage.join(self.base, f"training-{architecture}")

    def pretraining_lease(self, architecture: Architecture) -> str:
        """Who alone may pretrain."""
        return storage.join(self.base, "leases", f"pretrain-{architecture}")

    @property
    def counting_attempts(self) -> str:
        """Which units were begun, and how often."""
        return storage.join(self.base, "counts-attempts")

    @property
    def packing_attempts(self) -> str:
        """Which shards were begun, and how often."""
        return storage.join(self.base, "blocks-attempts")

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


def command(pipeline: str, config: Config) -> str:
    """The command line of another stage of the same run: the same recipe, and those of its
    overrides that this stage uses."""
    file, *options = pipeline.split()
    arguments = options_for(file.removesuffix(".py"), config.arguments)
    return " ".join(["python", f"pipelines/{file}", config.recipe, *map(shlex.quote, arguments), *options])
