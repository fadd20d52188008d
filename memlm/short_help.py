"""What `--help` shows: the recipes, and the ten options of a command that matter first.
`--help-all` shows every option there is."""

import re
from collections.abc import Callable, Mapping
from operator import attrgetter

from memlm.config import Config
from memlm.data.paths import WORLD

HELP_ALL = "--help-all"
WIDTH = 38
"""Characters of the column of options."""

OF_EVERY_COMMAND = {
    "--dry-run": "print what would be read, made and reused, and do nothing",
    "--storage": "folder, or s3://bucket/prefix, of all runs",
    "--run-name": "folder of this run in the storage; the recipe's name if not given",
    "--tracking": "MLflow server (http://...) or sqlite:////absolute/file; 'off' for none; a file in the storage folder if not given",
}
_FACTS = {
    "--questions.facts.path": "file of the facts to learn, as questions and answers; the generated world's if not given",
    "--questions.facts.layout": "how that file is laid out",
}
_LEARNING = {
    "--method": "how it is learned",
    "--method.optimizer.learning-rate": "how far each step goes; every method has a default of its own",
    "--stream.num-facts": "how many facts are learned",
    "--stream.num-passes": "how often each is learned",
    "--seed": "which facts, in which order, in which wordings",
}
_WRITER = {
    "--writer.model": "language model that writes: a folder, or a name on the Hugging Face hub",
    "--writer.endpoint.base-url": "or an OpenAI-compatible server that serves it",
    "--writer.max-new-tokens": "most tokens that it writes at once",
}
_DOCUMENTS = {
    "--questions.documents.path": "file of the documents to learn",
    "--questions.documents.questions": "file of the questions about them",
}
OF_COMMANDS: dict[str, dict[str, str]] = {
    "prepare_corpus": {
        **_FACTS,
        "--corpus.path": "files of text to pretrain on",
        "--corpus.tokenizer": "name on the hub, or folder; one is trained if not given",
        "--corpus.block-size": "tokens of each training block",
        "--world.seed": "which generated world",
    },
    "pretrain": {
        "--architecture": "the memory model, or its twin without a memory",
        "--pretraining.num-steps": "steps of training",
        "--pretraining.batch-blocks": "token blocks of each step",
        "--pretraining.learning-rate": "its highest value",
        "--cluster.num-workers": "processes that train together",
        "--cluster.use-gpu": "a GPU for each of them",
    },
    "count_accesses": {
        "--counting.num-batches": "batches of background text that are counted",
        "--counting.batch-blocks": "token blocks of each",
        "--counting.seed": "which ones",
        "--cluster.num-trials-at-once": "workers that count side by side; one a CPU or GPU if not given",
        "--cluster.use-gpu": "a GPU for each of them",
        "--base-run": "another run whose corpus and checkpoint are used",
    },
    "finetune": {**_LEARNING, "--questions.facts.path": _FACTS["--questions.facts.path"]},
    "evaluate": {
        "--checkpoint": "another checkpoint than the run's own, such as one that a patch was applied to",
        "--architecture": "the run's memory model, or its twin without a memory",
        "--seed": "which facts are asked",
        "--evaluation.max-new-tokens": "longest answer",
        "--register-model": "keep the model in MLflow's registry under this name",
        "--cluster.use-gpu": "score on a GPU",
    },
    "analyze_slots": {
        "--analysis.num-facts": "facts that are looked at",
        "--analysis.slot-counts": "how many slots are tried for each fact",
        "--method.num-trainable-slots": "slots that a step may change",
        "--stream.num-wordings": "wordings of each fact",
        "--seed": "which facts",
        "--cluster.use-gpu": "look at them on a GPU",
    },
    "pareto_sweep": {
        "--sweep.methods": "methods that are compared",
        "--sweep.seeds": "seeds of each setting",
        "--sweep.scale": "which search spaces of tune_spaces/ are swept",
        "--questions.facts.path": _FACTS["--questions.facts.path"],
        "--cluster.num-trials-at-once": "trials side by side; one a CPU or GPU if not given",
        "--cluster.use-gpu": "a GPU for each of them",
    },
    "augment_documents": {
        **_DOCUMENTS,
        "--questions.documents.augmenter": "rules, or what a model is asked for",
        **_WRITER,
    },
    "write_statements": {**_FACTS, **_WRITER, "--wordings.num-wordings": "wordings of each fact"},
}


def short_help(
    description: str,
    stage: str,
    config: Config,
    recipes: Mapping[str, Callable[[], Config]],
    methods: Mapping[str, object],
) -> str:
    """The page, with the defaults of a recipe."""
    options = {**OF_EVERY_COMMAND, **OF_COMMANDS[stage]}
    command = f"python pipelines/{stage}.py"
    lines = [description.strip(), "", f"usage: {command} [recipe] [--option value ...]", "", "recipes:"]
    for name, recipe in recipes.items():
        lines.append(f"  {name:18} {_first_sentence(recipe.__doc__ or '')}")
    lines += ["", f"the options that matter first, with what the recipe {config.recipe} sets:"]
    for option, meaning in options.items():
        lines.append(f"  {option:{WIDTH}} {meaning}{_default(config, option)}")
        if option == "--method":
            lines.append(f"  {'':{WIDTH}} one of {', '.join(methods)}")
    return "\n".join([*lines, "", f"all options: {command} {config.recipe} {HELP_ALL}"]) + "\n"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<!et al)\.(?:\s|$)", " ".join(text.split()))[0]


def _default(config: Config, option: str) -> str:
    try:
        value = attrgetter(option.lstrip("-").replace("-", "_"))(config)
    except AttributeError:  # a part that this recipe or this method does not have
        return ""
    value = getattr(value, "name", value) if option == "--method" else value
    if value in ("", 0, None, False) or WORLD in str(value):
        return ""
    return f" ({' '.join(map(str, value)) if isinstance(value, tuple) else value})"
