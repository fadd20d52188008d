"""Page of `--help`: the recipes and the ten most important options of a command. `--help-all`
shows every option."""

import io
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from operator import attrgetter

from memlm.config import Config
from memlm.data.paths import WORLD

HELP_ALL = "--help-all"
WIDTH = 38
"""Characters in the column of options."""

COMMON_OPTIONS = {
    "--dry-run": "print what would be read, made and reused, without doing it",
    "--storage": "folder or s3://bucket/prefix of all runs",
    "--run-name": "folder of this run in the storage; default: the recipe's name",
    "--tracking": "MLflow server (http://...) or sqlite:////absolute/file, or 'off'; default: a file in the storage folder",
}
_FACTS = {
    "--questions.facts.path": "file of the facts to learn, as questions and answers; default: the generated world's",
    "--questions.facts.layout": "layout of that file",
}
_WRITER = {
    "--writer.model": "language model that writes: a folder or a name on the Hugging Face hub",
    "--writer.endpoint.base-url": "OpenAI-compatible server, if the model runs there",
    "--writer.max-new-tokens": "longest text that it writes, in tokens",
}
_DOCUMENTS = {
    "--questions.documents.path": "file of the documents to learn",
    "--questions.documents.questions": "file of the questions about the documents",
}
COMMAND_OPTIONS: dict[str, dict[str, str]] = {
    "prepare_corpus": {
        **_FACTS,
        "--corpus.path": "folder of text files to pretrain on",
        "--corpus.tokenizer": "name on the hub or folder; default: train one",
        "--corpus.block-size": "tokens per training block",
        "--world.seed": "chooses the generated world",
    },
    "pretrain": {
        "--architecture": "memory model, or its dense twin without a memory",
        "--pretraining.num-steps": "number of training steps",
        "--pretraining.batch-blocks": "token blocks per step",
        "--pretraining.learning-rate": "peak learning rate",
        "--cluster.num-workers": "number of training processes",
        "--cluster.use-gpu": "give each of them a GPU",
    },
    "count_accesses": {
        "--counting.num-batches": "number of batches of background text",
        "--counting.batch-blocks": "token blocks per batch",
        "--counting.seed": "chooses the batches",
        "--cluster.num-trials-at-once": "number of parallel workers; default: one per CPU or GPU",
        "--cluster.use-gpu": "give each of them a GPU",
        "--base-run": "use the corpus and checkpoint of this run",
    },
    "finetune": {
        "--base-run": "use the model of this run",
        **_FACTS,
        "--method": "method of finetuning",
        "--method.optimizer.learning-rate": "learning rate; every method has its own default",
        "--stream.num-facts": "number of facts to learn",
    },
    "evaluate": {
        "--checkpoint": "checkpoint to score, such as a patched one; default: the run's own",
        "--architecture": "the run's memory model, or its dense twin without a memory",
        "--seed": "chooses the facts",
        "--evaluation.max-new-tokens": "longest answer, in tokens",
        "--register-model": "store the model in MLflow's registry under this name",
        "--cluster.use-gpu": "use a GPU",
    },
    "analyze_slots": {
        "--analysis.num-facts": "number of facts to analyze",
        "--analysis.slot-counts": "numbers of trainable slots to try for each fact",
        "--method.num-trainable-slots": "slots that a step may change",
        "--stream.num-wordings": "wordings per fact",
        "--seed": "chooses the facts",
        "--cluster.use-gpu": "use a GPU",
    },
    "pareto_sweep": {
        "--sweep.methods": "methods to compare",
        "--sweep.seeds": "seeds to run each setting with",
        "--sweep.tuning-seeds": "seeds that only choose each method's settings, on facts of their own",
        "--sweep.checkpoints": "seeds of worlds and pretrainings to run all trials on; default: the run's own",
        "--sweep.scale": "chooses the search spaces in tune_spaces/",
        "--cluster.num-trials-at-once": "number of parallel trials; default: one per CPU or GPU",
    },
    "augment_documents": {
        **_DOCUMENTS,
        "--questions.documents.augmenter": "rules; sentences, each alone; given, for rewrites that come with the text; or the way a language model restates it",
        **_WRITER,
    },
    "write_statements": {**_FACTS, **_WRITER, "--wordings.num-wordings": "wordings per fact"},
}


def short_help(
    description: str,
    stage: str,
    config: Config,
    recipes: Mapping[str, Callable[[], Config]],
    methods: Mapping[str, object],
) -> str:
    """The page, with the recipe's defaults."""
    options = {**COMMON_OPTIONS, **COMMAND_OPTIONS[stage]}
    command = f"python pipelines/{stage}.py"
    lines = [
        description.strip(),
        "",
        f"usage: {command} [recipe] [--option value ...]",
        f"on a cluster: RAY_AUTH_MODE=token ray job submit --working-dir . -- {command} --storage s3://bucket/prefix",
        "",
        "recipes:",
    ]
    for name, recipe in recipes.items():
        if not recipe().base_run:
            lines.append(f"  {name:18} {_first_sentence(recipe.__doc__ or '')}")
    others = "on another recipe's checkpoints (docs/pipelines.md): " + ", ".join(
        name for name, recipe in recipes.items() if recipe().base_run
    )
    lines += textwrap.wrap(others, width=110, initial_indent="  ", subsequent_indent="    ")
    lines += ["", f"most important options, with the defaults of the recipe {config.recipe}:"]
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
    except AttributeError:  # this recipe or method has no such part
        return ""
    value = getattr(value, "name", value) if option == "--method" else value
    if value in ("", 0, None, False) or WORLD in str(value):
        return ""
    return f" ({' '.join(map(str, value)) if isinstance(value, tuple) else value})"


_HELP_TEXT = re.compile(r"(?P<border>[│ ]) {7}(?P<text>\S.*?) *[│ ]")


class _Page(io.StringIO):
    encoding = sys.stdout.encoding  # decides whether tyro draws its boxes


@contextmanager
def paragraphs_joined() -> Iterator[None]:
    """Print what is printed in the block with each option's help as one paragraph: tyro keeps the
    line breaks of the docstrings in the source."""
    printed = _Page()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        print(join_paragraphs(printed.getvalue()), end="")


def join_paragraphs(page: str) -> str:
    """tyro's page of help with the lines below each option filled to the width of its box."""
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*page.splitlines(), ""]:
        found = _HELP_TEXT.fullmatch(line)
        if found:
            paragraph.append(found["text"])
            border, width = found["border"], len(line) - 10
            continue
        if paragraph:
            filled = textwrap.wrap(" ".join(paragraph), width, break_long_words=False, break_on_hyphens=False)
            lines += [f"{border}       {text.ljust(width)} {border}" for text in filled]
            paragraph = []
        lines.append(line)
    return "\n".join(lines)
