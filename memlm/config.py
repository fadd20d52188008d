"""The whole of a run in one tree: what is computed, and where it runs. Every pipeline reads the
parts that it needs.

Only the first kind names a result: another number of workers, another machine or another
tracking server does not.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import tyro

from memlm.credentials import has_password, redacted
from memlm.data.config import (
    CorpusConfig,
    DocumentStreamConfig,
    QuestionsConfig,
    StreamChoice,
    StreamConfig,
    WordingsConfig,
)
from memlm.data.world.world import WorldConfig
from memlm.data.writers.config import WriterConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.identity import EXECUTION_ONLY, execution_only, names_result
from memlm.methods.config import MethodConfig, SparseMemoryConfig
from memlm.model.config import Architecture, ModelConfig
from memlm.names import require_distinct, require_name
from memlm.training.config import AnalysisConfig, CountingConfig, PretrainingConfig

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable that Ray sets in the driver of a submitted job."""
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
)
MAX_SEED = 2**63 - 1
"""The largest seed that torch, numpy and Python's random all take."""
BESIDE_RUNS = ("mlflow", "mlflow_artifacts")
"""What lies in the storage folder and is no run: mlflow.db, its lock and its artifacts."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What pareto_sweep compares."""

    scale: str = names_result("laptop")
    """Which of a method's search spaces in tune_spaces/ is swept: laptop, smoke, wiki, triviaqa,
    documents or paper."""
    methods: tuple[str, ...] = names_result(("sparse_memory", "lora", "full"))
    seeds: tuple[int, ...] = names_result((0, 1, 2))
    """Each varies the facts, their order, their wordings and the initialisation of what is
    trained; never the checkpoint."""
    max_failures: int = execution_only(2)
    """New tries of a trial that failed or whose worker or node was lost, before the sweep ends
    with its error. Divergence is a result: it is not tried again, and stands beside the
    frontier."""
    drawn_beside: tuple[str, ...] = execution_only(())
    """Other runs whose frontiers stand beside this one's in joint.png."""
    trunk_cache_bytes: int = execution_only(384 * 2**20)
    """Of each node's object store, for what the layers below the first memory layer's read make
    of the sets and streams: computed once for all trials that move values alone. Shared out
    evenly over the held-out sets and the seeds; what does not fit is computed in each trial.
    Changes no result; 0 for none."""

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds:
            raise ValueError("sweep.methods and sweep.seeds must each name at least one")
        if len(set(self.seeds)) < len(self.seeds) or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"sweep.methods {self.methods} and sweep.seeds {self.seeds} must not repeat")
        for name in self.drawn_beside:
            require_name("sweep.drawn_beside", name)
        require_distinct("sweep.drawn_beside", list(self.drawn_beside))
        if self.max_failures < 0:
            raise ValueError(f"sweep.max_failures is {self.max_failures}; it must not be negative (0 for no new try)")
        if self.trunk_cache_bytes < 0:
            raise ValueError(
                f"sweep.trunk_cache_bytes is {self.trunk_cache_bytes}; it must not be negative (0 keeps nothing)"
            )


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where it runs. Changes no result beyond rounding."""

    num_workers: int = execution_only(1)
    """Pretraining workers."""
    num_trials_at_once: int = execution_only(0)
    """Trials, or counting workers, side by side; 0 for one per CPU or GPU."""
    threads_per_worker: int = execution_only(1)
    """CPU threads of each. Two workers of two threads on two cores run several times slower than
    two of one."""
    use_gpu: bool = execution_only(False)
    max_failures: int = execution_only(2)
    """Restarts of a worker group before a run gives up. A node that went after a notice does not
    count."""
    notice_seconds: int = execution_only(90)
    """How long a pretraining that gets SIGTERM may take to save a state; then it ends all the
    same, with status 130. Spot machines are given 120 s. A submitted job is given 3 s by Ray, or
    RAY_JOB_STOP_WAIT_TIME_S of the head's environment: set it higher than this."""
    wait_seconds: int = execution_only(0)
    """How long to wait for nodes that are still to join before a cluster is refused as too
    small. For nodes that the autoscaler says it can start, at least 15 minutes."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("num_trials_at_once", "max_failures", "notice_seconds", "wait_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run can be told. `--run-name` names its folder under `--storage`."""

    recipe: tyro.conf.Suppress[str] = field(metadata=EXECUTION_ONLY)
    """Where the defaults come from."""
    arguments: tyro.conf.Suppress[tuple[str, ...]] = execution_only(())
    """The overrides as they were given, for messages that name another command of the same run."""
    dry_run: tyro.conf.Suppress[bool] = execution_only(False)
    """Print what each stage would read, make and reuse, and do none of it."""
    run_name: str = execution_only("")
    """Folder of the results; the recipe's name if empty."""
    base_run: str = execution_only("")
    """Another run whose corpus, checkpoints and counts are used, or made there first; empty for
    the run's own."""
    storage: str = execution_only("runs")
    """Folder or s3://bucket/prefix of all runs. In a submitted job it must be absolute."""
    tracking: str = execution_only("")
    """MLflow tracking URI; empty for a sqlite file in the storage folder, 'off' for none."""
    architecture: Architecture = names_result("memory")
    """pretrain and evaluate: the memory model or its dense twin."""
    checkpoint: str = names_result("")
    """evaluate: another checkpoint than the run's own, such as one that a patch was applied to."""
    trace: bool = execution_only(False)
    """finetune: also write what the stream does to each fact, as numbers, a picture and a page
    of coloured tokens. Changes no result."""
    log_model: bool = execution_only(False)
    """pretrain, finetune and evaluate: also keep the model in MLflow, where
    mlflow.transformers.load_model finds it. Changes no result."""
    register_model: str = execution_only("")
    """As log_model, and as a new version of the model of this name in MLflow's registry."""
    seed: int = names_result(0)
    """finetune: which facts, in which order and wordings, and the initialisation of what is
    trained."""
    world: WorldConfig | None = names_result(WorldConfig())
    """The generated world; recipes on real files have none."""
    corpus: CorpusConfig = names_result(CorpusConfig())
    questions: QuestionsConfig = names_result(QuestionsConfig())
    writer: WriterConfig = names_result(WriterConfig())
    wordings: WordingsConfig = names_result(WordingsConfig())
    model: ModelConfig = names_result(ModelConfig())
    pretraining: PretrainingConfig = names_result(PretrainingConfig())
    counting: CountingConfig = names_result(CountingConfig())
    stream: StreamChoice = names_result(StreamConfig())
    """Of facts, or of documents where questions.documents names some."""
    method: MethodConfig = names_result(SparseMemoryConfig())
    """finetune: choose another by --method NAME; its own settings are --method.FIELD."""
    evaluation: EvaluationConfig = names_result(EvaluationConfig())
    analysis: AnalysisConfig = names_result(AnalysisConfig())
    """analyze_slots, and the token page of a traced finetune."""
    sweep: SweepConfig = names_result(SweepConfig())
    cluster: ClusterConfig = execution_only(ClusterConfig())

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        num_slots = self.model.memory.num_slots * self.model.memory.num_pools
        if isinstance(self.method, SparseMemoryConfig) and self.method.num_trainable_slots > num_slots:
            raise ValueError(
                f"method.num_trainable_slots is {self.method.num_trainable_slots}, more than the {num_slots} slots that model.memory has; lower it"
            )
        for name in ("tracking", "storage", "checkpoint"):
            if has_password(address := getattr(self, name)):
                raise ValueError(
                    f"{name} is {redacted(address)}; an address is logged and stored, so it must hold no user name, no password and no query; "
                    f"{_CREDENTIALS[name == 'tracking']}"
                )
        if (self.log_model or self.register_model) and self.tracking == "off":
            field = "register_model" if self.register_model else "log_model"
            raise ValueError(f"tracking is off, so {field} has nowhere to keep the model; leave one of the two out")
        _check_documents(self)
        self.pretraining.require_workers(self.cluster.num_workers)
        if self.architecture == "memory" and self.model.memory.layers:
            _check_pool_split(self.pretraining.pool_split, self.model.memory.value_dim, self.cluster.num_workers)


def _check_names(config: Config) -> None:
    if not config.storage.strip():
        raise ValueError("storage is empty; name a folder or s3://bucket/prefix, or leave it out for the folder runs")
    for option, name in (
        ("--run-name", config.run_name),
        ("--base-run", config.base_run),
        ("--register-model", config.register_model),
    ):
        if name:
            require_name(option, name)
        if option != "--register-model" and name.split(".")[0].casefold() in BESIDE_RUNS:
            raise ValueError(
                f"{option} is {name!r}, which is kept for MLflow's own files in the storage folder; choose another name"
            )


def _check_numbers(config: Config) -> None:
    """Raises ValueError naming the field for a number that is not finite and for a seed that a
    generator would refuse or change."""
    for path, value in _leaves(config):
        name = path.rpartition(".")[2].partition("[")[0]
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path} is {value}; it must be a finite number")
        if name in ("seed", "seeds", "sample_seed") and not 0 <= value <= MAX_SEED:
            raise ValueError(f"{path} is {value}; a seed must be at least 0 and at most {MAX_SEED} (2**63 - 1)")


def _leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a tree of configs, with its dotted path."""
    if is_dataclass(part):
        for each in fields(part):
            yield from _leaves(getattr(part, each.name), f"{path}.{each.name}" if path else each.name)
    elif isinstance(part, tuple):
        for index, value in enumerate(part):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, part


def _check_pool_split(pool_split: int, value_dim: int, num_workers: int) -> None:
    if value_dim % pool_split:
        raise ValueError(
            f"pretraining.pool_split is {pool_split}, and model.memory.value_dim ({value_dim}) is not a multiple of it; each worker of a "
            "group holds as many columns, so change one of them"
        )
    if num_workers % pool_split:
        raise ValueError(
            f"pretraining.pool_split is {pool_split}, and cluster.num_workers ({num_workers}) is not a multiple of it; set cluster.num_workers "
            "to one, or lower pretraining.pool_split"
        )


def _check_documents(config: Config) -> None:
    """A chunk, in any of its texts, must fit into the stream's batches, and those into the
    model."""
    documents, stream = config.questions.documents, config.stream
    if (documents is not None) != isinstance(stream, DocumentStreamConfig):
        raise ValueError(
            "questions.documents and a stream of documents belong together; a recipe must have both (stream=DocumentStreamConfig()) or neither"
        )
    if documents is None:
        return
    if documents.max_augmentation_tokens >= stream.max_length:
        raise ValueError(
            f"questions.documents.max_augmentation_tokens is {documents.max_augmentation_tokens}; with its end, a text must fit into "
            f"stream.max_length ({stream.max_length}); lower the first or raise the second"
        )
    if stream.max_length > config.model.max_positions:
        raise ValueError(
            f"stream.max_length is {stream.max_length}, more than the {config.model.max_positions} positions that the model has "
            "(model.max_positions); lower stream.max_length, questions.documents.max_augmentation_tokens and chunk_tokens, or raise model.max_positions"
        )


def replace_field(config: Any, path: str, value: Any) -> Any:
    """A copy with the field at a dotted path replaced. Raises ValueError naming the fields that
    there are."""
    head, _, rest = path.partition(".")
    names = [each.name for each in fields(config)]
    if head not in names:
        raise ValueError(f"{type(config).__name__} has no field {head!r}; it has {', '.join(names)}")
    return replace(config, **{head: replace_field(getattr(config, head), rest, value) if rest else value})
