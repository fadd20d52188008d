"""Options that each command uses, and checks that need only its config.

Both run when a command line is parsed, before any slow import. Every command accepts the options
that decide a run's corpus, checkpoints and counts, so that one set of options serves all stages of
a run. A command refuses any other option that it does not use.
"""

import os
from collections.abc import Callable, Iterator, Sequence

from memlm.config import Config, varied
from memlm.data.config import (
    QUESTION_LAYOUTS,
    QUESTION_TASKS,
    DocumentsConfig,
    FieldsConfig,
    QuestionSetConfig,
)
from memlm.data.paths import SAMPLES, WORLD, expand
from memlm.methods.config import SlotMethodConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.slots.ranking import GRADIENT_RANKINGS, RANKINGS

RUN_OPTIONS = (
    *("run_name", "base_run", "storage", "tracking", "cluster"),
    *("world", "corpus", "questions", "model", "pretraining", "counting"),
)
USES: dict[str, tuple[str, ...]] = {
    "prepare_corpus": ("writer",),
    "pretrain": ("architecture", "log_model", "register_model"),
    "count_accesses": (),
    "finetune": (
        "log_model",
        "register_model",
        "method",
        "stream",
        "evaluation",
        "seed",
        "trace",
        "writer",
        "analysis.num_page_facts",
    ),
    "evaluate": ("log_model", "register_model", "architecture", "checkpoint", "stream", "evaluation", "seed", "writer"),
    "analyze_slots": ("method", "stream", "evaluation", "seed", "analysis", "writer"),
    "pareto_sweep": ("stream", "evaluation", "sweep", "writer"),
    "augment_documents": ("writer",),
    "write_statements": ("writer", "wordings"),
}
"""Options of each command in addition to those of the run."""
APPLY_TO_UPDATES = ("--questions.facts.num-questions", "--questions.facts.skip", "--questions.facts.shuffle")
"""Options of the facts that choose among updates too."""
READS_SOURCES = ("prepare_corpus", "pareto_sweep", "augment_documents", "write_statements")
TRACKED = ("pretrain", "count_accesses", "finetune", "evaluate", "pareto_sweep")


class RunError(ValueError):
    """A run lacks an input of a command, or has another artifact under its name; or a command is
    given an option that it cannot use."""


def uses(stage: str, option: str) -> bool:
    """Whether a command uses an option, such as --method.rank."""
    field = option.lstrip("-").partition("=")[0].replace("-", "_")
    return any(field == used or field.startswith(f"{used}.") for used in (*RUN_OPTIONS, *USES[stage]))


def options_for(stage: str, arguments: Sequence[str]) -> list[str]:
    """Arguments that the command uses: options with their values."""
    kept, keeps = [], True
    for argument in arguments:
        keeps = uses(stage, argument) if argument.startswith("--") else keeps
        if keeps:
            kept.append(argument)
    return kept


def without_options(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Arguments without these options and their values."""
    kept, keeps = [], True
    for argument in arguments:
        keeps = argument.partition("=")[0].replace("_", "-") not in options if argument.startswith("--") else keeps
        if keeps:
            kept.append(argument)
    return kept


def require_used(stage: str, arguments: Sequence[str]) -> None:
    """Raise RunError for the first option that the command would ignore, naming the commands that
    use it."""
    for option in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        if uses(stage, option):
            continue
        others = [other for other in USES if uses(other, option)]
        if others:  # the parser refuses unknown options, with the nearest name
            raise RunError(
                f"{option} has no effect on {stage}, so it is refused; leave it out. These commands use it: {', '.join(others)}"
            )


def require_possible(stage: str, config: Config) -> None:
    """Raise ValueError for a config that the stage cannot run. A dry run reports missing paths by
    itself."""
    if "://" in config.storage and not config.storage.startswith("s3://"):
        raise RunError(f"storage is {config.storage!r}; it must be a local path or s3://bucket/prefix")
    if stage in TRACKED:
        require_tracking(config)
    if check := CHECKS.get(stage):
        check(config)
    _refuse_facts_with_documents(config)
    if stage in ("prepare_corpus", "pareto_sweep"):
        _require_tokenizer(config.corpus.tokenizer)
        _require_writer_of_samples(config)
    if stage in READS_SOURCES:
        _check_layouts(config)
        if not config.dry_run:
            for path, field in _paths(config, with_corpus=stage in ("prepare_corpus", "pareto_sweep")):
                if SAMPLES in path:  # they may not exist yet
                    continue
                if config.world is None or WORLD not in path:  # the generated world may not exist yet
                    expand(path, field, None)


def require_tracking(config: Config) -> None:
    """Raise RunError for an unknown kind of address, and for MLflow's default sqlite file if the
    storage is S3."""
    if config.tracking not in ("", "off") and not config.tracking.startswith(("sqlite:", "http://", "https://")):
        raise RunError(
            f"tracking is {config.tracking!r}; it must be sqlite:////absolute/mlflow.db, http(s)://host:port, 'off', or empty for a file in the storage folder"
        )
    if not config.tracking and config.storage.startswith("s3://"):
        raise RunError(
            f"--storage is {config.storage}, which cannot hold MLflow's sqlite file; give --tracking a server's http(s) address, or 'off'"
        )


def require_documents(config: Config) -> DocumentsConfig:
    """Return the config of the documents to learn. Raises RunError for a recipe that learns
    facts."""
    if config.questions.documents is None:
        raise RunError(
            "the recipe has no questions.documents; give --questions.documents.path and --questions.documents.questions, or name a recipe "
            "that learns documents, such as wiki_documents"
        )
    return config.questions.documents


def require_slots_to_analyze(config: Config) -> SlotMethodConfig:
    """Return the method whose slots are analysed. Raises RunError if it selects no slots, if it
    ranks them by gradients, or if more slots are asked for than the pool has."""
    if config.stream.loss_on != "all":
        raise RunError(
            f"stream.loss_on is {config.stream.loss_on!r}, and the analysis learns whole statements; leave --stream.loss-on out"
        )
    method, num_slots = config.method, config.model.memory.num_slots * config.model.memory.num_pools
    if not isinstance(method, SlotMethodConfig):
        raise RunError(
            f"--method is {method.name}, which selects no slots; leave it out, or give {SparseMemoryConfig.name}"
        )
    if method.ranking in GRADIENT_RANKINGS:
        raise RunError(
            f"--method.ranking is {method.ranking}, which is known only while a step learns; leave it out, or give one of {', '.join(RANKINGS)}"
        )
    for name in ("slot_counts", "read_slot_counts"):
        if max(getattr(config.analysis, name)) > num_slots:
            raise RunError(
                f"analysis.{name} is {getattr(config.analysis, name)}, and model.memory has {num_slots} slots; leave out the larger numbers"
            )
    return method


def require_finetunable(config: Config) -> None:
    """Raise RunError for the trace of a method that changes no weights, or a model to log from one
    that learns a prefix."""
    method = config.method
    if config.trace and method.moves == "nothing":
        raise RunError(f"trace is True, and method {method.name} changes no weights to trace; leave --trace out")
    for name in ("log_model", "register_model"):
        if getattr(config, name) and method.learns_prefix:
            raise RunError(
                f"{name} is {getattr(config, name)}, and method {method.label} changes no model: it learns keys and values, "
                f"which finetune stores; leave --{name.replace('_', '-')} out"
            )


def _require_sweepable(config: Config) -> None:
    """Raise RunError for a sweep whose facts are parted twice, or whose checkpoints are chosen
    twice, and ValueError for a value of sweep.values that does not fit."""
    for value in config.sweep.values:
        varied(config, value)
    part, tuning_seeds = config.stream.part, config.sweep.tuning_seeds
    if tuning_seeds and part != "all":
        raise RunError(
            f"stream.part is {part!r}, and sweep.tuning_seeds {tuning_seeds} part the facts already; leave --stream.part out, or give "
            "--sweep.tuning-seeds without a seed"
        )
    checkpoints = config.sweep.checkpoints
    for option in ("--world.seed", "--pretraining.seed"):
        if checkpoints and without_options(config.arguments, (option,)) != list(config.arguments):
            raise RunError(
                f"{option} has no effect with sweep.checkpoints {checkpoints}, which are the seeds of world and pretraining; leave one of the two out"
            )


def _require_writer(config: Config) -> None:
    if not config.writer.model:
        raise RunError(
            "writer.model is empty; name a Hugging Face causal model by folder or hub id, or the model of writer.endpoint.base_url"
        )


def _require_tokenizer(tokenizer: str) -> None:
    if tokenizer.startswith((".", "/", "~")) and not os.path.isdir(tokenizer):
        raise RunError(
            f"corpus.tokenizer is {tokenizer!r}, and there is no such folder; correct the path, or give a hub id"
        )


def _require_writer_of_samples(config: Config) -> None:
    if config.corpus.samples is not None and not config.model.base:
        raise RunError(
            "corpus.samples is set, and there is no model.base to write them before the corpus exists; set model.base, or leave corpus.samples out"
        )
    corpus = config.corpus
    if corpus.samples is None and corpus.reads_samples:
        raise RunError(
            f"corpus.path is {corpus.path!r} and corpus.validation_path {corpus.validation_path!r}, and corpus.samples says not to let the base "
            "write texts; set it, or name other paths"
        )


def _require_checkpoint(config: Config) -> None:
    if config.checkpoint and not config.dry_run:
        expand(config.checkpoint, "checkpoint", None)


CHECKS: dict[str, Callable[[Config], object]] = {
    "finetune": require_finetunable,
    "analyze_slots": require_slots_to_analyze,
    "augment_documents": require_documents,
    "write_statements": _require_writer,
    "evaluate": _require_checkpoint,
    "pareto_sweep": _require_sweepable,
}


def _sets(config: Config) -> Iterator[tuple[QuestionSetConfig, str]]:
    questions = config.questions
    if questions.documents is None:
        yield questions.facts, "questions.facts"
    for held_out in questions.held_out:
        yield held_out, f"questions.held_out {held_out.name}"
    if questions.examples:
        yield questions.examples, "questions.examples"
    if config.corpus.mixture:
        yield config.corpus.mixture, "corpus.mixture"


def _paths(config: Config, *, with_corpus: bool) -> Iterator[tuple[str, str]]:
    documents, facts = config.questions.documents, config.questions.facts
    if with_corpus:
        yield config.corpus.path, "corpus.path"
        if config.corpus.validation_path:
            yield config.corpus.validation_path, "corpus.validation_path"
        for source, field in _sets(config):
            yield source.path, f"{field}.path"
    if documents is not None:
        yield documents.path, "questions.documents.path"
        yield documents.questions, "questions.documents.questions"
    else:
        yield facts.path, "questions.facts.path"
        if facts.statements and with_corpus:
            yield facts.statements, "questions.facts.statements"


def _refuse_facts_with_documents(config: Config) -> None:
    given = [argument for argument in config.arguments if argument.startswith("--questions.facts.")]
    if config.questions.documents is not None and given:
        raise RunError(
            f"{given[0].partition('=')[0]} has no effect when documents are learned in place of facts; leave it out, or leave out questions.documents"
        )
    read = [each for each in given if not each.startswith(APPLY_TO_UPDATES)]
    if config.questions.updates is not None and read:
        raise RunError(
            f"{read[0].partition('=')[0]} has no effect when updates are learned in place of facts; leave it out, or name a recipe without updates"
        )


def _check_layouts(config: Config) -> None:
    for held_out in config.questions.held_out:
        if held_out.task and held_out.task not in QUESTION_TASKS:
            raise RunError(
                f"questions.held_out {held_out.name}.task is {held_out.task!r}; it must be one of {', '.join(QUESTION_TASKS)}, or empty for the layout's own"
            )
    for source, field in _sets(config):
        if source.layout not in QUESTION_LAYOUTS:
            raise RunError(
                f"{field}.layout is {source.layout!r}; it must be one of {', '.join(QUESTION_LAYOUTS)} (fields for a table of your own)"
            )
        if source.layout != "fields" and source.fields != FieldsConfig():
            raise RunError(
                f"{field}.fields is set, and {field}.layout is {source.layout!r}, which ignores it; set the layout to 'fields', or leave the fields out"
            )
