"""Folders of a run that are no artifacts: leases, attempts, unfinished work and the sweep's ledger;
and the command lines of its stages.

A run is a folder under the storage root. Its artifacts are in artifacts.py.
"""

import shlex
from dataclasses import dataclass

from memlm import storage
from memlm.config import Config
from memlm.kinds import CHECKPOINT_KIND
from memlm.model.config import DENSE_TWIN, RUNS, SEED
from memlm.stages import RunError, options_for, require_tracking
from memlm.tracking import sqlite_uri


@dataclass(frozen=True)
class Run:
    """The folder of one run, and the folder of the run whose corpus, checkpoints and counts it
    uses: most often the same."""

    uri: str
    base: str
    """Folder with corpus, checkpoints and counts."""

    @property
    def trials(self) -> str:
        """The sweep's ledger: one JSON per finished trial."""
        return storage.join(self.uri, "trials")

    @property
    def base_trials(self) -> str:
        """The ledger of the base run; a trial that both runs plan is run once."""
        return storage.join(self.base, "trials")

    @property
    def scores(self) -> str:
        """Scores of evaluated checkpoints, one file for each evaluation."""
        return storage.join(self.uri, "scores")

    @property
    def ray_records(self) -> str:
        """Ray's own records, which last as long as the training or sweep that they are about."""
        return storage.join(self.uri, "ray")

    def training_states(self, trained: str) -> str:
        """Folder in which an unfinished pretraining of an architecture, or of the control, keeps
        its states, to resume from."""
        return storage.join(self.base, f"training-{trained}")

    @property
    def counting_attempts(self) -> str:
        """Which units were begun, and how often."""
        return storage.join(self.base, "counts-attempts")

    @property
    def packing_attempts(self) -> str:
        """Which shards were begun, and how often."""
        return storage.join(self.base, "blocks-attempts")

    @property
    def corpus_lease(self) -> str:
        """Lease of the driver that makes tokenizer and corpus."""
        return storage.join(self.base, "leases", "prepare_corpus")

    def pretraining_lease(self, trained: str) -> str:
        """Lease of the driver that pretrains an architecture, or the control."""
        return storage.join(self.base, "leases", f"pretrain-{trained}")

    @property
    def counting_lease(self) -> str:
        """Lease of the driver that counts accesses."""
        return storage.join(self.base, "leases", "count_accesses")

    @property
    def known_lease(self) -> str:
        """Lease of the driver that asks the model before learning."""
        return storage.join(self.base, "leases", "known_questions")

    @property
    def samples_lease(self) -> str:
        """Lease of the driver that lets the model before learning write."""
        return storage.join(self.base, "leases", "base_samples")

    @property
    def documents_lease(self) -> str:
        """Lease of the driver that augments the documents."""
        return storage.join(self.uri, "leases", "augment_documents")

    @property
    def statements_lease(self) -> str:
        """Lease of the driver that has the facts stated."""
        return storage.join(self.uri, "leases", "write_statements")

    def learning_lease(self, name: str) -> str:
        """Lease of the driver of one finetune, by the name of its patch."""
        return storage.join(self.uri, "leases", f"finetune-{name}")

    @property
    def sweep_lease(self) -> str:
        """Lease of the driver that sweeps."""
        return storage.join(self.uri, "leases", "pareto_sweep")


def run_of(config: Config) -> Run:
    """The folders of a config's run."""
    root = storage.require_absolute(config.storage, "--storage")
    if not config.run_name:
        raise RunError("--run-name is empty; it names the folder of the results, so give it one")
    uri = storage.join(root, config.run_name)
    return Run(uri, storage.join(root, config.base_run) if config.base_run else uri)


def named_base(config: Config) -> str:
    """The address of the base, with the seed filled in."""
    return config.model.base.replace(SEED, str(config.pretraining.seed))


def twin_of_run(config: Config) -> str:
    """Uri of the dense twin of another run, if that is the base; empty for any other base. Raises
    RunError if that run has none."""
    found = DENSE_TWIN.fullmatch(named_base(config))
    if found is None:
        return ""
    uri = named_base(config).replace(RUNS, storage.require_absolute(config.storage, "--storage"))
    if not storage.has_artifact(uri):
        raise RunError(
            f"model.base is {config.model.base!r}, and {uri} does not exist; make it by the sweep of the run {found[1]}, or name another run"
        )
    storage.read_manifest(uri, CHECKPOINT_KIND)
    return uri


def tracking_uri(config: Config) -> str:
    """Address of the MLflow server: the one given, else a sqlite file in the storage folder; empty
    for none."""
    if config.tracking == "off":
        return ""
    if config.tracking:
        return config.tracking
    require_tracking(config)
    return sqlite_uri(f"{config.storage}/mlflow.db")


def command(pipeline: str, config: Config) -> str:
    """Command line of another stage of the same run: the same recipe, and those overrides that the
    stage uses."""
    file, *options = pipeline.split()
    arguments = options_for(file.removesuffix(".py"), config.arguments)
    return " ".join(["python", f"pipelines/{file}", config.recipe, *map(shlex.quote, arguments), *options])
