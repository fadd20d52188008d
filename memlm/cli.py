"""Command lines: `[recipe] [--dry-run] [--method NAME] [--dotted.field value ...]` becomes a
config; and the `memlm` command.

Arguments are checked before any slow import, so a mistake is reported within a second.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from types import ModuleType
from typing import TypeVar

import tyro

from memlm.config import IN_JOB, Config
from memlm.credentials import OLD_NAMES, VARIABLES, has_password, redacted, without_secrets
from memlm.data.config import DocumentsConfig, DocumentStreamConfig
from memlm.extras import MissingExtra, missing_extra, needed_for
from memlm.methods.registry import METHOD_CONFIGS
from memlm.names import suggestion
from memlm.options.attach import attach_parser
from memlm.options.parser_errors import errors_on_one_line
from memlm.options.short_help import HELP_ALL, paragraphs_joined, short_help
from memlm.outside import visible
from memlm.preflight.cost.command import answer, take_options
from memlm.preflight.cost.machines import MACHINES
from memlm.recipes import RECIPES
from memlm.stages import require_possible, require_used

DEFAULT_RECIPE = "laptop"
DRY_RUN = "--dry-run"
LM_EVAL, PLAN, DOCTOR, FRONTIER, ATTACH = "lm-eval", "plan", "doctor", "frontier", "attach"
GATE_FAILED = 3
"""Status of a command that made what it was asked for, which then fails a gate."""
DOCUMENTS = "--questions.documents."

T = TypeVar("T")


class UsageError(ValueError):
    """The command line asks for something that does not exist."""


def parse(description: str, arguments: Sequence[str] | None = None, *, stage: str = "") -> Config:
    """Config for a command line. On an unknown name, exits with status 2 and suggests the nearest
    known one.

    With a stage, exits as well on options that the stage does not use and on settings that it
    cannot work with.
    """
    rest = [_with_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    try:
        _refuse_passwords(rest)
        recipe = rest.pop(0) if rest and not rest[0].startswith("-") else DEFAULT_RECIPE
        config = _named("recipe", recipe, RECIPES)()
        dry_run = DRY_RUN in rest
        rest = [argument for argument in rest if argument != DRY_RUN]
        arguments = tuple(rest)
        if stage:
            require_used(stage, arguments)
        method = _take_option(rest, "--method")
        if method is not None:
            config = replace(config, method=_named("method", method, METHOD_CONFIGS)())
        if any(argument.startswith(DOCUMENTS) for argument in rest) and config.questions.documents is None:
            documents = DocumentsConfig(path="", questions="")
            questions = replace(config.questions, documents=documents)
            config = replace(config, questions=questions, stream=DocumentStreamConfig())
        if stage and {"-h", "--help"} & set(rest):
            print(short_help(description, stage, config, RECIPES, METHOD_CONFIGS), end="")
            raise SystemExit(0)
        rest = ["--help" if argument == HELP_ALL else argument for argument in rest]
        usage = f"[{{{','.join(RECIPES)}}}] [{DRY_RUN}] [--method {{{','.join(METHOD_CONFIGS)}}}] [--FIELD VALUE ...]"
        with errors_on_one_line(UsageError), paragraphs_joined():
            config = tyro.cli(
                Config,
                default=config,
                args=rest,
                description=f"{description}\n\nUsage: {usage}\nDefaults are those of the recipe {recipe!r}.",
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
        _require_documents(config)
        config = replace(
            config,
            run_name=config.run_name or config.recipe,
            storage=_absolute(config.storage, "--storage"),
            checkpoint=_absolute(config.checkpoint, "--checkpoint"),
            arguments=arguments,
            dry_run=dry_run,
        )
        if stage:
            require_possible(stage, config)
        return config
    except ValueError as error:
        raise SystemExit(_fail(error)) from None


def _parse_whole(description: str, command: str, arguments: Sequence[str]) -> Config:
    """Config for a command that examines a whole recipe and makes nothing. Exits with status 2 as
    `parse` does."""
    if DRY_RUN in arguments:
        raise SystemExit(
            _fail(UsageError(f"{DRY_RUN} has no effect on memlm {command}, which never makes anything; leave it out"))
        )
    return parse(description, arguments)


def _require_documents(config: Config) -> None:
    """Refuse one file of documents without the other, when the options add documents to a
    recipe."""
    documents = config.questions.documents
    for name in ("path", "questions"):
        if documents is not None and not getattr(documents, name).strip():
            raise UsageError(
                f"questions.documents.{name} is missing; documents need a file of their own and a file of questions about them: "
                f"{DOCUMENTS}path FILE {DOCUMENTS}questions FILE"
            )


def _with_home(argument: str) -> str:
    """The argument with a leading `~` or `~user` of its path expanded: no shell does that in
    `--corpus.path=~/shards`."""
    option, equals, path = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + os.path.expanduser(path)


def _absolute(uri: str, option: str) -> str:
    """Absolute path that every worker can find. In a submitted job a relative path would point into
    the job's own upload."""
    if not uri or "://" in uri:
        return uri
    if IN_JOB in os.environ and not os.path.isabs(uri):
        raise UsageError(
            f"{option} is {uri!r}; a submitted job needs an absolute path that all nodes share, or s3://bucket/prefix"
        )
    # The meaning of ".." depends on links, so the operating system resolves it; without "..", links
    # stay as given.
    return os.path.realpath(uri) if ".." in uri.split("/") else os.path.abspath(uri)


def _refuse_passwords(arguments: Sequence[str]) -> None:
    """Raise UsageError for a password in an argument, before any argument is printed: other users
    of the machine can read arguments, and runs store them."""
    option = ""
    for argument in arguments:
        name, _, value = argument.partition("=") if argument.startswith("-") else (option, "", argument)
        option = name
        if has_password(value):
            raise UsageError(
                f"{name or 'an argument'} is {redacted(value)}; an address on a command line must not contain a user name, a password or a query: "
                "other users of this machine can read it, and it is logged. Give credentials by environment variables "
                f"({', '.join(variable for variable in VARIABLES if variable not in OLD_NAMES)})"
            )


def _fail(error: ValueError) -> int:
    print(f"error: {visible(without_secrets(str(error)))}", file=sys.stderr)
    return 2


def _named(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise UsageError(f"unknown {what} {name!r}; {suggestion(name, known)}")
    return known[name]


def _take_option(arguments: list[str], option: str) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            value = arguments[index + 1]
            del arguments[index : index + 2]
            return value
        if argument.startswith(f"{option}="):
            del arguments[index]
            return argument.split("=", 1)[1]
    return None


def launch(job: Callable[[], object]) -> None:
    """Run a job. Exits with status 1 and one line for an error that the user can correct, and with
    130 after an interruption."""
    try:
        job()
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        first = _first_cause(error)
        if isinstance(first, ModuleNotFoundError):
            first = missing_extra(first, "this command") or first
        if not isinstance(first, ValueError | OSError):
            raise
        print(f"error: {visible(without_secrets(str(first)))}", file=sys.stderr)
        raise SystemExit(1) from None


def _first_cause(error: BaseException) -> BaseException:
    """The error that a worker raised, without Ray's wrappers around it."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return error


def main_of(description: str, stage: str) -> None:
    """Main function of a pipeline: parse the command line, then run the job of the same name. Exits
    with status 3 if a base's memory fails a gate."""
    config = parse(description, stage=stage)

    def work() -> None:
        job_of(config, stage)(config)
        if stage == "pretrain" and not config.dry_run and _job(stage).failed_gates(config):
            raise SystemExit(GATE_FAILED)

    launch(work)


def job_of(config: Config, stage: str) -> Callable[..., object]:
    """Job of a stage or, with --dry-run, a function that prints the stage's plan. Both take the
    config and the job's other arguments."""
    if config.dry_run:
        return partial(importlib.import_module("memlm.preflight.dry_run").run, stage)
    _say(f"{stage}: recipe {config.recipe}, run {config.storage.rstrip('/')}/{config.run_name}")
    run: Callable[..., object] = _job(stage).run
    return run


def _job(stage: str) -> ModuleType:
    return importlib.import_module(f"memlm.jobs.{stage}")


def _say(text: str) -> None:
    """Print a line in the jobs' format while libraries are still being imported."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run lm-evaluation-harness's main function, with code from model folders blocked, whatever its
    options say. Exits with status 2 and the remedy if it is not installed."""
    try:
        with needed_for(f"memlm {LM_EVAL}"):
            harness = importlib.import_module("lm_eval.__main__")
    except MissingExtra as error:
        raise SystemExit(_fail(error)) from None
    refuse_code_of_folders()
    sys.argv = [LM_EVAL, *arguments]
    launch(harness.cli_evaluate)


def refuse_code_of_folders() -> None:
    """Make transformers raise UsageError in this process in place of running code from a model's
    folder or repository."""

    def refuse(class_name: str, module_path: str | os.PathLike[str], **_: object) -> type:
        raise UsageError(
            f"the model's folder asks to run its own code ({os.path.basename(module_path)}), and memlm never runs such code; "
            "leave out trust_remote_code, or call lm_eval itself if you trust that code"
        )

    # This function runs all such code. Checking options would not do: trust_remote_code may come
    # as an option, in model_args or in a file.
    for module in ("transformers.dynamic_module_utils", "transformers.generation.utils"):
        importlib.import_module(module).get_class_in_module = refuse  # type: ignore[attr-defined]


def run_plan(arguments: Sequence[str]) -> None:
    """`memlm plan [RECIPE] [--gpus N ...] [--FIELD VALUE ...]`: print what a recipe costs. On an
    unknown name, exits with status 2 and suggests the nearest known one."""
    options, rest = take_options(arguments)
    try:
        machine = _named("GPU type", options.gpu_type, MACHINES)
    except UsageError as error:
        raise SystemExit(_fail(error)) from None
    config = _parse_whole("Plan a recipe.", PLAN, rest)

    def plan() -> None:
        # The search spaces import the library, not the other way round; this command joins the two,
        # as the pipeline of the sweep does.
        spaces = importlib.import_module("tune_spaces").load_spaces(config.sweep.methods, config.sweep.scale)
        number = config.sweep.trials_per_setting
        print(answer(config, machine, options, {each: number for space in spaces for each in space.settings()}))

    launch(plan)


def run_doctor(arguments: Sequence[str]) -> None:
    """`memlm doctor [RECIPE] [--gpus N] [--json] [--FIELD VALUE ...]`: check whether a recipe can
    run here. Exits with status 1 if a check fails."""
    parser = argparse.ArgumentParser(
        prog=f"memlm {DOCTOR}",
        usage=f"memlm {DOCTOR} [RECIPE] [--gpus N] [--json] [--storage URI] [--tracking URI] [--FIELD VALUE ...]",
        description="Check whether a recipe can run here: one line per check, with the remedy. Status 1 if a check fails.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        help="number of GPUs for pretraining; sets cluster.num_workers and cluster.use_gpu",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    options, rest = parser.parse_known_args(list(arguments))
    if options.gpus:
        rest += ["--cluster.use-gpu", "True", "--cluster.num-workers", str(options.gpus)]
    config = _parse_whole("Examine a recipe's surroundings.", DOCTOR, rest)

    def doctor() -> None:
        checks = []
        for check in importlib.import_module("memlm.preflight.doctor").examine(config):
            checks.append(check)
            if not options.json:
                print(without_secrets(str(check)), flush=True)
        if options.json:
            print(without_secrets(json.dumps([asdict(check) for check in checks], indent=1)))
        if any(check.state == "fail" for check in checks):
            raise SystemExit(1)

    launch(doctor)


def run_attach(arguments: Sequence[str]) -> None:
    """`memlm attach BASE OUT --layer N --slots M [...]`: put a memory into somebody else's model.
    Exits with status 1 and one line for a base that cannot have one, and with status 3 if the
    checkpoint is written, but fails a gate."""
    options = vars(attach_parser(f"memlm {ATTACH}").parse_args(list(arguments)))
    base, out = _with_home(options.pop("base")), _with_home(options.pop("out"))
    options["text"] = options["text"] and _with_home(options["text"])

    def attach() -> None:
        _say(f"{ATTACH}: {base}")
        importlib.import_module("transformers.utils.logging").disable_progress_bar()
        made = importlib.import_module("memlm.training.checkpoints.attaching").attach(base, out, **options)
        print(
            f"{out} is a checkpoint with digest {made.digest}: {made.parameters.base:,} parameters and {made.memory.num_slots:,} slots of "
            f"{made.memory.value_dim} at layer {made.memory.layers[0]}, {made.memory.placement}"
        )
        if not made.has_tokenizer:
            print("the base has no tokenizer, so there is none in the checkpoint")
        if made.measured is None:
            print("its keys are random; fit them to text before it learns")
            return
        print(f"its keys are fitted to {options['text'] or 'text that the base wrote by itself'}")
        print("\n".join([*made.measured.lines(), *(made.control.lines() if made.control else ())]))
        if made.measured.failed():
            raise SystemExit(GATE_FAILED)

    launch(attach)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    ATTACH: run_attach,
    LM_EVAL: run_lm_eval,
    PLAN: run_plan,
    DOCTOR: run_doctor,
}
"""Subcommands that parse the rest of their command line themselves."""


def main() -> None:
    """Put learned facts into a checkpoint and take them out again, byte for byte.

    `memlm attach` puts a memory into a causal language model. `memlm apply` adds a patch written by
    finetune.py to a checkpoint; `memlm undo` removes it.
    `memlm adopt` makes a folder that save_pretrained wrote into a checkpoint, by adding a manifest.
    `memlm frontier` computes a sweep's frontier again from the items that it kept, and draws it.
    `memlm plan` and `memlm doctor` say what a recipe costs and whether it can run here. `memlm
    lm-eval` runs lm-evaluation-harness on memlm's models:
    --model hf --model_args pretrained=CHECKPOINT. Training and evaluation are in pipelines/.
    """
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    parser = argparse.ArgumentParser(prog="memlm", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help, checkpoint in (
        ("apply", "the checkpoint with the patch applied", "checkpoint to change"),
        ("undo", "the checkpoint as it was before the patch", "patched checkpoint"),
    ):
        command = commands.add_parser(name, help=f"write {help}", description=f"Write {help}.")
        command.add_argument("checkpoint", help=f"folder or s3://bucket/prefix of the {checkpoint}")
        command.add_argument("patch", help="folder or s3://bucket/prefix of the patch, as finetune.py prints it")
        command.add_argument("output", help="new folder or s3://bucket/prefix to write the result to")
    adopted = commands.add_parser("adopt", help="make a folder that save_pretrained wrote into a checkpoint")
    adopted.add_argument("folder", help="folder on a disk; only a manifest.json is added to it")
    again = commands.add_parser(FRONTIER, help="compute a sweep's frontier again from its items, and draw it")
    again.add_argument("items", help="items.json of a sweep, on a disk or s3://bucket/prefix")
    again.add_argument(
        "--out", required=True, help="folder or s3://bucket/prefix to write frontier, picture and report to"
    )
    commands.add_parser(ATTACH, help="put a memory into a causal language model")
    commands.add_parser(PLAN, help="print what a recipe will cost")
    commands.add_parser(DOCTOR, help="check whether a recipe can run here, and what to do if not")
    commands.add_parser(LM_EVAL, help="run lm-evaluation-harness on memlm's models, with its own options")
    arguments = parser.parse_args()

    def adopt() -> None:
        _say(f"adopt: {arguments.folder}")
        from memlm.training.checkpoints.adopting import adopt

        folder = _with_home(arguments.folder)
        print(f"{folder} is a checkpoint with digest {adopt(folder).digest}")

    def patch() -> None:
        _say(f"{arguments.command}: {arguments.checkpoint} and {arguments.patch}")
        from memlm.training.patch import apply_patch, undo_patch

        change = apply_patch if arguments.command == "apply" else undo_patch
        change(*map(_with_home, (arguments.checkpoint, arguments.patch, arguments.output)))
        print(f"wrote {arguments.output}")

    def frontier() -> None:
        _say(f"{FRONTIER}: {arguments.items}")
        from memlm.jobs.sweep.drawing import redraw

        print(redraw(_with_home(arguments.items), _with_home(arguments.out)))
        print(f"wrote {arguments.out}")

    launch({"adopt": adopt, FRONTIER: frontier}.get(arguments.command, patch))
