"""Config of a run: one tree with what is computed and where it runs. Every pipeline reads the parts
that it needs.

Fields that say what is computed identify a result; fields that say where it runs (the number of
workers, the machine, the tracking server) do not.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import tyro

from memlm.credentials import has_password, redacted
from memlm.data.config import DocumentStreamConfig, QuestionsConfig, StreamChoice, StreamConfig, WordingsConfig
from memlm.data.corpus.config import CorpusConfig
from memlm.data.world.world import WorldConfig
from memlm.data.writers.config import WriterConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.identity import EXECUTION_ONLY, execution_only, names_result
from memlm.methods.config import MethodConfig, SlotMethodConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
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
"""Largest seed that torch, numpy and Python's random all accept."""
MLFLOW_NAMES = ("mlflow", "mlflow_artifacts")
"""Names in the storage folder that are not runs: mlflow.db, its lock and its artifacts."""


def _varies(sweep: "SweepConfig") -> bool:
    return bool(sweep.vary)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Methods, settings and seeds that pareto_sweep compares."""

    scale: str = names_result("laptop")
    """Search space of each method, a name in its file of tune_spaces/: laptop, laptop_rule,
    laptop_wide, wiki, paper and others."""
    methods: tuple[str, ...] = names_result(("sparse_memory", "lora", "full"))
    seeds: tuple[int, ...] = names_result((0, 1, 2))
    """Seeds to run each setting with. A seed chooses the facts, their order, their wordings and the
    initial values of new parameters; it never changes the checkpoint."""
    tuning_seeds: tuple[int, ...] = names_result(())
    """Seeds of trials that only choose each method's settings. With them, one fact in four is
    learned by these seeds alone, and the others by `seeds` alone. Without them, settings are chosen
    on the results that are reported."""
    checkpoints: tuple[int, ...] = names_result(())
    """Checkpoints to run all trials on, each by the seed of both its world and its pretraining; a
    recipe without a generated world varies the pretraining alone. Each is a run of its own, named
    RUN-checkpoint-SEED, and one frontier is drawn over all. Empty for the run's own checkpoint."""
    vary: str = names_result("", when=_varies)
    """Field, such as stream.num_facts, to repeat the whole sweep with each of `values`; empty for
    one sweep. Each value is a run of its own, RUN-VALUE."""
    values: tuple[int, ...] = names_result((), when=_varies)
    max_failures: int = execution_only(2)
    """Retries of a trial that failed or lost its worker or node, before the sweep ends with an
    error. A trial that diverged is a result: it is listed with the frontier, and not retried."""
    compare_with: tuple[str, ...] = execution_only(())
    """Other runs whose frontiers joint.png shows next to this one's."""
    trunk_cache_bytes: int = execution_only(384 * 2**20)
    """Bytes of each node's object store for cached activations below the first memory layer's read,
    which are computed once for all trials that train only values. Divided evenly among the
    held-out sets and the seeds; activations that do not fit are computed in each trial. 0
    disables the cache. Changes no result."""

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds:
            raise ValueError("sweep.methods and sweep.seeds must each have at least one entry")
        if len(set(self.seeds)) < len(self.seeds) or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"sweep.methods {self.methods} and sweep.seeds {self.seeds} must not repeat")
        if overlap := sorted({*self.seeds} & {*self.tuning_seeds}):
            raise ValueError(
                f"sweep.tuning_seeds {self.tuning_seeds} and sweep.seeds {self.seeds} both contain {overlap[0]}; settings must be chosen on other trials "
                "than those reported, so take other seeds for one of the two"
            )
        if len(set(self.tuning_seeds)) < len(self.tuning_seeds):
            raise ValueError(f"sweep.tuning_seeds {self.tuning_seeds} must not repeat; give each seed once")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ValueError(f"sweep.checkpoints {self.checkpoints} must not repeat; give each checkpoint once")
        if bool(self.vary) != bool(self.values) or len(set(self.values)) < len(self.values):
            raise ValueError(
                f"sweep.vary is {self.vary!r} and sweep.values are {self.values}; give a field and different values for it, or neither"
            )
        for name in self.compare_with:
            require_name("sweep.compare_with", name)
        require_distinct("sweep.compare_with", list(self.compare_with))
        if self.max_failures < 0:
            raise ValueError(f"sweep.max_failures is {self.max_failures}; it must not be negative (0 means no retry)")
        if self.trunk_cache_bytes < 0:
            raise ValueError(
                f"sweep.trunk_cache_bytes is {self.trunk_cache_bytes}; it must not be negative (0 disables the cache)"
            )

    @property
    def trials_per_setting(self) -> int:
        """Trials of each setting, over all seeds and checkpoints."""
        return len(self.all_seeds) * max(1, len(self.checkpoints))

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return (*self.seeds, *self.tuning_seeds)

    def stream_for(self, stream: StreamChoice, seed: int) -> StreamChoice:
        """The stream of trials with this seed: its part is tuning or evaluation where there are
        tuning seeds."""
        if not self.tuning_seeds:
            return stream
        return replace(stream, part="tuning" if seed in self.tuning_seeds else "evaluation")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Settings of the machines that do the work. They change no result beyond rounding."""

    num_workers: int = execution_only(1)
    """Number of pretraining workers."""
    num_trials_at_once: int = execution_only(0)
    """Number of parallel trials or counting workers; 0 for one per CPU or GPU."""
    threads_per_worker: int = execution_only(1)
    """CPU threads of each worker. On two cores, two workers with two threads each are several times
    slower than two with one."""
    use_gpu: bool = execution_only(False)
    """Give each worker and each trial a GPU."""
    max_failures: int = execution_only(2)
    """Restarts of the pretraining workers before the run fails. Losing a node that had given notice
    does not count."""
    notice_seconds: int = execution_only(90)
    """Seconds that pretraining may take to save its state after SIGTERM, before it ends with status
    130 in any case. Spot machines give 120 s. Ray gives a submitted job only 3 s, or
    RAY_JOB_STOP_WAIT_TIME_S of the head node's environment: set that variable higher than this."""
    wait_seconds: int = execution_only(0)
    """Seconds to wait for more nodes before a cluster is refused as too small. The wait for nodes
    that the autoscaler can start is at least 15 minutes."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("num_trials_at_once", "max_failures", "notice_seconds", "wait_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"cluster.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run. Its folder is `--run-name` under `--storage`."""

    recipe: tyro.conf.Suppress[str] = field(metadata=EXECUTION_ONLY)
    """Recipe that the defaults come from."""
    arguments: tyro.conf.Suppress[tuple[str, ...]] = execution_only(())
    """Options as given, for messages that name another command of the same run."""
    dry_run: tyro.conf.Suppress[bool] = execution_only(False)
    """Print what each stage would read, make and reuse, without doing it."""
    run_name: str = execution_only("")
    """Folder of the results; empty for the recipe's name."""
    base_run: str = execution_only("")
    """Another run whose corpus, checkpoints and counts are used; they are made there if missing.
    Empty to use the run's own."""
    storage: str = execution_only("runs")
    """Folder or s3://bucket/prefix of all runs; a submitted job needs an absolute path."""
    tracking: str = execution_only("")
    """MLflow tracking URI; empty for a sqlite file in the storage folder, 'off' to disable."""
    architecture: Architecture = names_result("memory")
    """For pretrain and evaluate: the memory model or its dense twin."""
    checkpoint: str = names_result("")
    """For evaluate: checkpoint to score in place of the run's own, such as a patched one."""
    trace: bool = execution_only(False)
    """For finetune: also record how each step of the stream changes each fact, as numbers, a
    picture and a page of coloured tokens. Changes no result."""
    log_model: bool = execution_only(False)
    """For pretrain, finetune and evaluate: also store the model in MLflow, for
    mlflow.transformers.load_model. Changes no result."""
    register_model: str = execution_only("")
    """Like log_model, and also register the model in MLflow, as a new version under this name."""
    seed: int = names_result(0)
    """For finetune: seed of the choice of facts, their order, their wordings and the initial values
    of new parameters."""
    world: WorldConfig | None = names_result(WorldConfig())
    """Generated world; None for recipes on real files."""
    corpus: CorpusConfig = names_result(CorpusConfig())
    questions: QuestionsConfig = names_result(QuestionsConfig())
    writer: WriterConfig = names_result(WriterConfig())
    wordings: WordingsConfig = names_result(WordingsConfig())
    model: ModelConfig = names_result(ModelConfig())
    pretraining: PretrainingConfig = names_result(PretrainingConfig())
    counting: CountingConfig = names_result(CountingConfig())
    stream: StreamChoice = names_result(StreamConfig())
    """Stream of facts, or of documents if questions.documents is set."""
    method: MethodConfig = names_result(SparseMemoryConfig())
    """Method of finetuning: --method NAME chooses it, --method.FIELD sets its options."""
    evaluation: EvaluationConfig = names_result(EvaluationConfig())
    analysis: AnalysisConfig = names_result(AnalysisConfig())
    """Settings of analyze_slots, and of the token page of a traced finetune."""
    sweep: SweepConfig = names_result(SweepConfig())
    cluster: ClusterConfig = execution_only(ClusterConfig())

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        num_slots = self.model.memory.num_slots * self.model.memory.num_pools
        if isinstance(self.method, SlotMethodConfig) and self.method.num_trainable_slots > num_slots:
            raise ValueError(
                f"method.num_trainable_slots is {self.method.num_trainable_slots}, more than the {num_slots} slots that model.memory has; lower it"
            )
        for name in ("tracking", "storage", "checkpoint"):
            if has_password(address := getattr(self, name)):
                raise ValueError(
                    f"{name} is {redacted(address)}; an address is logged and stored, so it must not contain a user name, a password or a query; "
                    f"{_CREDENTIALS[name == 'tracking']}"
                )
        if (self.log_model or self.register_model) and self.tracking == "off":
            field = "register_model" if self.register_model else "log_model"
            raise ValueError(f"tracking is off, so {field} cannot store the model; leave one of the two out")
        _check_documents(self)
        _check_base(self)
        _check_sensitivities(self.counting, self.method)
        if self.questions.updates is not None and self.world is None:
            raise ValueError(
                "questions.updates needs the generated world, whose known facts it updates; name a recipe with a world, such as laptop"
            )
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
        if option != "--register-model" and name.split(".")[0].casefold() in MLFLOW_NAMES:
            raise ValueError(
                f"{option} is {name!r}, which is reserved for MLflow's files in the storage folder; choose another name"
            )


def _check_numbers(config: Config) -> None:
    """Raise ValueError, naming the field, for a number that is not finite and for a seed that a
    generator would refuse or change."""
    for path, value in _leaves(config):
        name = path.rpartition(".")[2].partition("[")[0]
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path} is {value}; it must be a finite number")
        if name in ("seed", "seeds", "tuning_seeds", "checkpoints", "sample_seed") and not 0 <= value <= MAX_SEED:
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
            f"pretraining.pool_split is {pool_split}, and model.memory.value_dim ({value_dim}) is not a multiple of it; all workers of a "
            "group hold equally many columns, so change one of them"
        )
    if num_workers % pool_split:
        raise ValueError(
            f"pretraining.pool_split is {pool_split}, and cluster.num_workers ({num_workers}) is not a multiple of it; set cluster.num_workers "
            "to a multiple, or lower pretraining.pool_split"
        )


def _check_sensitivities(counting: CountingConfig, method: MethodConfig) -> None:
    """Raise ValueError if the method needs sensitivities that are not measured."""
    if method.uses_sensitivities and not counting.sensitivities:
        raise ValueError(
            f"counting.sensitivities is False, and method {method.label} weighs background text by them; set it to True, or take another method"
        )


def _check_base(config: Config) -> None:
    """Check that the text is read with the base's own tokenizer, and that settings for a base have
    one."""
    settings = config.pretraining
    if not config.model.base:
        _check_without_base(settings)
        return
    if config.corpus.tokenizer:
        raise ValueError(
            f"corpus.tokenizer is {config.corpus.tokenizer!r}, and model.base reads with its own tokenizer; leave one of the two out"
        )
    if settings.pool_split > 1:
        raise ValueError(
            f"pretraining.pool_split is {settings.pool_split}, and the memory of a base is trained whole on each worker; set it to 1, or leave model.base out"
        )
    if not settings.num_steps and settings.control:
        raise ValueError(
            "pretraining.control is True, and pretraining.num_steps is 0, so there is no training to compare with; give it steps, or leave the control out"
        )


def _check_without_base(settings: PretrainingConfig) -> None:
    if not settings.num_steps:
        raise ValueError(
            "pretraining.num_steps is 0; it must be at least 1, unless a base gets a memory whose keys are only fitted (model.base)"
        )
    for name in ("keys", "distillation_weight", "control"):
        if getattr(settings, name) != getattr(PretrainingConfig(), name):
            raise ValueError(
                f"pretraining.{name} is {getattr(settings, name)!r}, and there is no model.base whose memory is trained; set model.base, or leave it out"
            )


def _check_documents(config: Config) -> None:
    """Check that every text of a chunk fits into the stream's batches, and a batch into the
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
            f"questions.documents.max_augmentation_tokens is {documents.max_augmentation_tokens}; a text with its end token must fit into "
            f"stream.max_length ({stream.max_length}); lower the first or raise the second"
        )
    if stream.max_length > config.model.max_positions and not config.model.base:
        raise ValueError(
            f"stream.max_length is {stream.max_length}, more than the {config.model.max_positions} positions that the model has "
            "(model.max_positions); lower stream.max_length, questions.documents.max_augmentation_tokens and chunk_tokens, or raise model.max_positions"
        )


def replace_field(config: Any, path: str, value: Any) -> Any:
    """Copy with the field at a dotted path replaced. Raises ValueError, listing the known
    fields."""
    head, _, rest = path.partition(".")
    names = [each.name for each in fields(config)]
    if head not in names:
        raise ValueError(f"{type(config).__name__} has no field {head!r}; it has {', '.join(names)}")
    return replace(config, **{head: replace_field(getattr(config, head), rest, value) if rest else value})


def varied(config: Config, value: int) -> Config:
    """The config of the sweep with this one of sweep.values, and of its run. Raises ValueError for
    a field or a value that does not fit."""
    field, name = config.sweep.vary, f"{config.run_name}-{value}"
    option = f"--{field.replace('_', '-')}"
    one = replace_field(config, field, value)
    return replace(
        one,
        run_name=name,
        arguments=(*config.arguments, option, str(value), "--run-name", name),
        sweep=replace(one.sweep, vary="", values=()),
    )
