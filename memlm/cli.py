"""From a command line to a config: `[recipe] [--dry-run] [--method NAME] [--dotted.field value
...]`, and the `memlm` command.

Checked before anything heavy is imported, so a mistake costs a second.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from functools import partial
from typing import TypeVar

import tyro

from memlm.config import IN_JOB, Config
from memlm.credentials import OLD_NAMES, VARIABLES, has_password, redacted, without_secrets
from memlm.data.config import DocumentsConfig, DocumentStreamConfig
from memlm.extras import MissingExtra, missing_extra, needed_for
from memlm.methods.registry import METHOD_CONFIGS
from memlm.outside import visible
from memlm.parser_errors import errors_on_one_line
from memlm.preflight.cost.command import answer, take_options
from memlm.preflight.cost.machines import MACHINES
from memlm.recipes import RECIPES
from memlm.short_help import HELP_ALL, short_help
from memlm.stages import require_possible, require_used

DEFAULT_RECIPE = "laptop"
DRY_RUN = "--dry-run"
LM_EVAL, PLAN, DOCTOR = "lm-eval", "plan", "doctor"
DOCUMENTS = "--questions.documents."

T = TypeVar("T")


class UsageError(ValueError):
    """The command line asks for something that there is not."""


def parse(description: str, arguments: Sequence[str] | None = None, *, stage: str = "") -> Config:
    """The config that a command line names. Exits with status 2 and the nearest known name on an
    unknown one.

    With a stage, also on an option that it does not use, and on what the config alone shows to
    be impossible for it.
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
        with errors_on_one_line(UsageError):
            config = tyro.cli(
                Config,
                default=config,
                args=rest,
                description=f"{description}\n\nUsage: {usage}\nThe defaults shown are those of the recipe {recipe!r}.",
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
    """For a command that looks at all of a recipe and makes nothing. Exits with status 2 as
    parse does."""
    if DRY_RUN in arguments:
        raise SystemExit(
            _fail(
                UsageError(f"{DRY_RUN} has no effect on memlm {command}, which makes nothing in any case; leave it out")
            )
        )
    return parse(description, arguments)


def _require_documents(config: Config) -> None:
    """A recipe without documents gets them by naming their files."""
    documents = config.questions.documents
    for name in ("path", "questions"):
        if documents is not None and not getattr(documents, name).strip():
            raise UsageError(
                f"questions.documents.{name} is missing; documents need their own file and that of the questions about them: "
                f"{DOCUMENTS}path FILE {DOCUMENTS}questions FILE"
            )


def _with_home(argument: str) -> str:
    """A `~` or `~user` in front of a path written out, which no shell does in
    `--corpus.path=~/shards`."""
    option, equals, path = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + os.path.expanduser(path)


def _absolute(uri: str, option: str) -> str:
    """A path as every worker can find it. In a submitted job a relative one would lie in the
    job's own upload."""
    if not uri or "://" in uri:
        return uri
    if IN_JOB in os.environ and not os.path.isabs(uri):
        raise UsageError(
            f"{option} is {uri!r}; a submitted job needs an absolute path that all nodes share, or s3://bucket/prefix"
        )
    # What ".." means depends on links, so only the operating system's meaning will do; else
    # links stay as they were given.
    return os.path.realpath(uri) if ".." in uri.split("/") else os.path.abspath(uri)


def _refuse_passwords(arguments: Sequence[str]) -> None:
    """Before anything prints an argument: other users of a machine can read them while a command
    runs, and runs keep them."""
    option = ""
    for argument in arguments:
        name, _, value = argument.partition("=") if argument.startswith("-") else (option, "", argument)
        option = name
        if has_password(value):
            raise UsageError(
                f"{name or 'an argument'} is {redacted(value)}; an address on a command line must hold no user name, no password and no query: "
                "other users of this machine can read it, and it is logged. Give credentials by environment variables "
                f"({', '.join(variable for variable in VARIABLES if variable not in OLD_NAMES)})"
            )


def _fail(error: ValueError) -> int:
    print(f"error: {visible(without_secrets(str(error)))}", file=sys.stderr)
    return 2


def _named(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        nearest = get_close_matches(name, known, n=1, cutoff=0.0)
        raise UsageError(f"unknown {what} {name!r}; did you mean {nearest[0]!r}? Known: {', '.join(known)}")
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
    """Run a job and exit: 0 if done, 1 with one line for what the user can correct, 130 if
    interrupted."""
    try:
        job()
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue from what is finished", file=sys.stderr)
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
    """What a worker raised, behind what Ray wraps around it."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return error


def main_of(description: str, stage: str) -> None:
    """A pipeline's command line: parse, then run the job of the same name."""
    config = parse(description, stage=stage)
    launch(lambda: job_of(config, stage)(config))


def job_of(config: Config, stage: str) -> Callable[..., object]:
    """The job of a stage, or with --dry-run what prints its plan; both take the config and what
    else the job takes."""
    if config.dry_run:
        return partial(importlib.import_module("memlm.preflight.dry_run").run, stage)
    _say(f"{stage}: recipe {config.recipe}, run {config.storage.rstrip('/')}/{config.run_name}")
    run: Callable[..., object] = importlib.import_module(f"memlm.jobs.{stage}").run
    return run


def _say(text: str) -> None:
    """A first line while libraries are still imported, in the form of the jobs' own lines."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def run_lm_eval(arguments: Sequence[str]) -> None:
    """lm-evaluation-harness's own main, which runs no code of a model's folder here, whatever
    its options ask for. Exits with status 2 and the remedy where it is not installed."""
    try:
        with needed_for(f"memlm {LM_EVAL}"):
            harness = importlib.import_module("lm_eval.__main__")
    except MissingExtra as error:
        raise SystemExit(_fail(error)) from None
    refuse_code_of_folders()
    sys.argv = [LM_EVAL, *arguments]
    launch(harness.cli_evaluate)


def refuse_code_of_folders() -> None:
    """From now on transformers raises UsageError in this process instead of running code that
    lies in a model's folder or repository."""

    def refuse(class_name: str, module_path: str | os.PathLike[str], **_: object) -> type:
        raise UsageError(
            f"the model's folder asks for its own code to be run ({os.path.basename(module_path)}), and memlm runs none; "
            "leave out trust_remote_code, or call lm_eval itself if you trust that code"
        )

    # All such code is run by this function, and trust_remote_code alone has many spellings:
    # options, model_args, a file of options.
    for module in ("transformers.dynamic_module_utils", "transformers.generation.utils"):
        importlib.import_module(module).get_class_in_module = refuse  # type: ignore[attr-defined]


def run_plan(arguments: Sequence[str]) -> None:
    """`memlm plan [RECIPE] [--gpus N ...] [--FIELD VALUE ...]`: what it costs. Exits with status
    2 and the nearest known name on an unknown one."""
    options, rest = take_options(arguments)
    try:
        machine = _named("GPU type", options.gpu_type, MACHINES)
    except UsageError as error:
        raise SystemExit(_fail(error)) from None
    config = _parse_whole("Plan a recipe.", PLAN, rest)

    def plan() -> None:
        # What is swept stands above the library; the command joins the two, as the pipeline of
        # the sweep does.
        spaces = importlib.import_module("tune_spaces").load_spaces(config.sweep.methods, config.sweep.scale)
        seeds = len(config.sweep.seeds)
        print(answer(config, machine, options, {each: seeds for space in spaces for each in space.settings()}))

    launch(plan)


def run_doctor(arguments: Sequence[str]) -> None:
    """`memlm doctor [RECIPE] [--gpus N] [--json] [--FIELD VALUE ...]`: what stands in its way
    here. Exits with status 1 if something does."""
    parser = argparse.ArgumentParser(
        prog=f"memlm {DOCTOR}",
        usage=f"memlm {DOCTOR} [RECIPE] [--gpus N] [--json] [--storage URI] [--tracking URI] [--FIELD VALUE ...]",
        description="Whether a recipe can run here: a line for each check, with the remedy. Status 1 if one fails.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gpus", type=int, default=0, help="number of GPUs to pretrain on: cluster.num_workers with cluster.use_gpu"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
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


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {LM_EVAL: run_lm_eval, PLAN: run_plan, DOCTOR: run_doctor}
"""Those that read the rest of their command line themselves."""


def main() -> None:
    """`memlm apply CHECKPOINT PATCH OUTPUT` puts a patch in; `memlm undo CHECKPOINT PATCH
    OUTPUT` takes it out again, byte for byte.

    `memlm adopt FOLDER` makes a checkpoint of a folder that save_pretrained wrote, by adding a
    manifest to it. `memlm plan RECIPE --gpus N` says what a recipe costs, and `memlm doctor
    RECIPE` whether it can run here. `memlm lm-eval ...` runs lm-evaluation-harness with memlm's
    models known to it: --model hf --model_args pretrained=CHECKPOINT.
    """
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    parser = argparse.ArgumentParser(prog="memlm", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help in (
        ("apply", "the checkpoint with what the patch learned"),
        ("undo", "the checkpoint as it was before the patch"),
    ):
        command = commands.add_parser(name, help=f"write {help}")
        for argument in ("checkpoint", "patch", "output"):
            command.add_argument(argument)
    adopted = commands.add_parser("adopt", help="make a checkpoint of a model's folder that save_pretrained wrote")
    adopted.add_argument("folder")
    commands.add_parser(PLAN, help="what a recipe costs, before it is run")
    commands.add_parser(DOCTOR, help="whether a recipe can run here, and what to do if not")
    commands.add_parser(LM_EVAL, help="lm-evaluation-harness with memlm's models; all that follows is its own")
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

    launch(adopt if arguments.command == "adopt" else patch)
