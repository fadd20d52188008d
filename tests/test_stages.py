import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from memlm.cli import parse, run_doctor, run_plan
from memlm.config import Config
from memlm.data.config import QUESTION_LAYOUTS
from memlm.data.questions.layouts import LAYOUTS
from memlm.run import command
from memlm.stages import USES, options_for, uses, without_options

ROOT = Path(__file__).parents[1]
PIPELINES = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))
FIELDS = {field.name for field in fields(Config)} - {"recipe", "arguments", "dry_run"}


def refusal(capsys, stage: str, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        recipe = [] if arguments and not arguments[0].startswith("-") else ["smoke"]
        parse("", [*recipe, *arguments], stage=stage)
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    return printed.err


def test_every_pipeline_declares_its_settings_and_every_setting_is_used():
    assert sorted(USES) == PIPELINES
    assert {name for name in FIELDS if any(uses(stage, f"--{name}") for stage in USES)} >= FIELDS - {"analysis"}
    assert set(QUESTION_LAYOUTS) == set(LAYOUTS)


@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        ("finetune", ("--checkpoint", "/nonexistent")),
        ("finetune", ("--checkpoint=/nonexistent",)),
        ("finetune", ("--sweep.seeds", "0", "1")),
        ("finetune", ("--analysis.num-facts", "3")),
        ("pareto_sweep", ("--method.num-trainable-slots", "50")),
        ("pareto_sweep", ("--method.optimizer.learning_rate=3",)),
        ("pareto_sweep", ("--method", "lora")),
        ("pareto_sweep", ("--method=lora",)),
        ("pareto_sweep", ("--seed", "3")),
        ("pretrain", ("--stream.num-facts", "5")),
        ("prepare_corpus", ("--trace", "True")),
        ("count_accesses", ("--architecture", "dense")),
        ("evaluate", ("--method", "lora")),
        ("write_statements", ("--evaluation.batch-size", "3")),
    ],
)
def test_an_option_that_a_command_would_ignore_is_refused(capsys, stage, arguments):
    message = refusal(capsys, stage, *arguments)
    assert (
        message.startswith(f"error: {arguments[0].partition('=')[0]} has no effect on {stage}")
        and message.count("\n") == 1
    )
    (others,) = message.strip().rsplit(": ", 1)[1:]
    assert all(uses(other, arguments[0]) for other in others.split(", ")) and stage not in others.split(", ")


def test_facts_are_not_parted_twice(capsys):
    message = refusal(capsys, "pareto_sweep", "--sweep.tuning-seeds", "7", "--stream.part", "tuning")
    assert message.startswith(
        "error: stream.part is 'tuning', and sweep.tuning_seeds (7,) part the facts already; leave"
    )
    assert parse("", ["laptop", "--stream.part", "tuning"], stage="finetune").stream.part == "tuning"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--world.seed", "3"), "--world.seed has no effect with sweep.checkpoints (1, 2)"),
        (("--pretraining.seed=3",), "--pretraining.seed has no effect with sweep.checkpoints (1, 2)"),
        (("--pretraining.seed", "-3"), "pretraining.seed is -3"),
    ],
)
def test_checkpoints_are_not_chosen_twice(capsys, given, message):
    assert refusal(capsys, "pareto_sweep", "--sweep.checkpoints", "1", "2", *given).startswith(f"error: {message}")


def test_options_can_be_taken_out_of_a_command_line():
    given = ["--a.b", "1", "2", "--a.b-c=3", "--d", "--e", "4"]
    assert without_options(given, ["--a.b", "--d"]) == ["--a.b-c=3", "--e", "4"]
    assert without_options(["--a.b_c", "3", "--e"], ["--a.b-c"]) == ["--e"]
    assert without_options(given, []) == given


def test_an_analysis_of_whole_statements_learns_no_values_alone(capsys):
    message = refusal(capsys, "analyze_slots", "--stream.loss-on", "values")
    assert message.startswith("error: stream.loss_on is 'values', and the analysis learns whole statements")


@pytest.mark.parametrize("stage", PIPELINES)
def test_options_of_a_run_are_accepted_by_all_its_stages(stage, tmp_path):
    of_the_run = ("--storage", str(tmp_path), "--tracking", "off", "--world.seed", "3", "--pretraining.num-steps", "4")
    needed = {
        "write_statements": ("--writer.model", "NAME"),
        "augment_documents": (
            *("--questions.documents.path", str(ROOT / "README.md")),
            *("--questions.documents.questions", str(ROOT / "README.md")),
        ),
    }
    config = parse("", ["smoke", *of_the_run, *needed.get(stage, ())], stage=stage)
    assert config.world is not None and (config.world.seed, config.pretraining.num_steps) == (3, 4)


def test_a_suggested_command_has_only_the_options_of_its_stage():
    config = parse("", ["smoke", "--method=lora", "--seed", "3", "--world.seed", "7", "--sweep.seeds", "0", "1"])
    assert command("pretrain.py --architecture dense", config) == (
        "python pipelines/pretrain.py smoke --world.seed 7 --architecture dense"
    )
    assert options_for("pareto_sweep", config.arguments) == ["--world.seed", "7", "--sweep.seeds", "0", "1"]


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        (
            "finetune",
            ("--trace", "True", "--method", "in_context"),
            "trace is True, and method in_context changes no weights",
        ),
        ("analyze_slots", ("--method", "lora"), "--method is lora, which selects no slots"),
        ("analyze_slots", ("--analysis.slot-counts", "5000"), "model.memory has 1024 slots"),
        ("analyze_slots", ("--method.ranking", "gradient"), "--method.ranking is gradient"),
        ("augment_documents", (), "the recipe has no questions.documents"),
        ("write_statements", (), "writer.model is empty"),
        ("evaluate", ("--checkpoint", "/no/such"), "checkpoint is '/no/such', which does not exist"),
        ("prepare_corpus", ("--corpus.path", "/no/such"), "corpus.path is '/no/such', which does not exist"),
        (
            "pareto_sweep",
            ("--questions.facts.path", "/no.csv"),
            "questions.facts.path is '/no.csv', which does not exist",
        ),
        ("prepare_corpus", ("--questions.facts.path", "$NOT_SET/a.csv"), "that environment variable is not set"),
        (
            "prepare_corpus",
            ("wiki", "--corpus.path", "{world}/x"),
            "'{world}/x', and the recipe has no generated world",
        ),
        (
            "prepare_corpus",
            ("--questions.facts.layout", "csv"),
            "questions.facts.layout is 'csv'; it must be one of triviaqa",
        ),
        (
            "prepare_corpus",
            ("--questions.facts.fields.question", "q"),
            "is 'triviaqa', which ignores it; set the layout",
        ),
        ("pretrain", ("--storage", "gs://bucket"), "it must be a local path or s3://bucket/prefix"),
        ("finetune", ("--storage", "s3://bucket/runs"), "give --tracking a server's http(s) address"),
    ],
)
def test_impossible_configs_are_refused_at_once(capsys, stage, arguments, message):
    line = refusal(capsys, stage, *arguments)
    assert message in line and line.count("\n") == 1


def test_facts_together_with_documents_are_refused(capsys, tmp_path):
    documents = ("--questions.documents.path", str(tmp_path), "--questions.documents.questions", str(tmp_path))
    message = refusal(capsys, "prepare_corpus", *documents, "--questions.facts.path", str(tmp_path))
    assert "--questions.facts.path has no effect when documents are learned" in message


def test_a_plan_names_missing_inputs_itself():
    assert parse("", ["smoke", "--dry-run", "--corpus.path", "/no/such"], stage="prepare_corpus").dry_run


def test_a_refusal_takes_a_moment():
    began = time.process_time()
    usage = os.times()
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "pipelines/finetune.py",
            "smoke",
            "--trace",
            "True",
            "--method",
            "in_context",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    spent = os.times()
    imported = {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 2 and "leave --trace out" in done.stderr
    assert not imported & {"torch", "ray", "transformers", "mlflow", "boto3"}
    assert spent.children_user - usage.children_user < 2 and time.process_time() - began < 2


@pytest.mark.parametrize("command", [run_plan, run_doctor])
def test_commands_that_make_nothing_have_no_dry_run(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        command(["smoke", "--dry-run"])
    assert stopped.value.code == 2 and "error: --dry-run has no effect on memlm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stage, arguments, said",
    [
        ("finetune", ("--tracking", "foo://x"), "tracking is 'foo://x'; it must be sqlite:////"),
        ("prepare_corpus", ("--corpus.tokenizer", "/none"), "corpus.tokenizer is '/none', and there is no such folder"),
        ("prepare_corpus", ("--questions.held-out.0.task", "nope"), "known_facts.task is 'nope'; it must be one of"),
    ],
)
def test_impossible_configs_are_refused_when_they_are_parsed(capsys, stage, arguments, said):
    assert said in refusal(capsys, stage, *arguments)
