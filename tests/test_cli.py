import os
import re
import resource
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from memlm.cli import launch, parse
from memlm.config import IN_JOB
from memlm.data.config import DocumentStreamConfig
from memlm.methods.lora import LoRAConfig
from memlm.methods.registry import METHOD_CONFIGS
from memlm.recipes import RECIPES
from memlm.stages import uses

ROOT = Path(__file__).parents[1]
PIPELINES = sorted(path.name for path in (ROOT / "pipelines").glob("*.py"))


def refusal(capsys, *arguments: str) -> str:
    """Error line of a refused command line; checks that only stderr has output and that the status
    is that of a usage error."""
    with pytest.raises(SystemExit) as stopped:
        parse("what it does", arguments)
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    return printed.err


@pytest.mark.parametrize(
    "arguments", [["laptp"], ["--method", "lorra"], ["--method=lorra"], ["smoke", "--method", "l"]]
)
def test_an_unknown_recipe_or_method_is_refused_with_the_nearest_name(capsys, arguments):
    message = refusal(capsys, *arguments)
    known, nearest = (RECIPES, "laptop") if arguments == ["laptp"] else (METHOD_CONFIGS, "lora")
    assert message.count("\n") == 1 and message.startswith("error: unknown ")
    assert f"did you mean {nearest!r}" in message and message.rstrip().endswith(f"Known: {', '.join(known)}")


@pytest.mark.parametrize(
    "arguments, nearest",
    [
        (["--corpus.vocab-siz", "512"], "--corpus.vocab-size"),
        (["--world.sead", "7"], "--world.seed"),
        (["smoke", "--method.num-trainable-slot", "5"], "--method.num-trainable-slots"),
        (["--method", "lora", "--method.rang", "8"], "--method.rank"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest(capsys, arguments, nearest):
    message = refusal(capsys, *arguments)
    assert arguments[-2] in message and re.search(rf"{nearest}\s", message) and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, field",
    [
        (["--pretraining.num-steps", "0"], "pretraining.num_steps is 0"),
        (["--pretraining.zero-stage", "4"], "--pretraining.zero-stage"),
        (["--pretraining.pool-optimizer", "adam"], "--pretraining.pool-optimizer"),
        (["--seed", "one"], "--seed"),
        (["smoke", "--method.num-trainable-slots", "1025"], "method.num_trainable_slots is 1025"),
        (["smoke", "--cluster.num-workers", "3"], "pretraining.batch_blocks is 16"),
        (["--method", "full", "--method.rank", "3"], "--method.rank"),
        (["--method"], "--method"),
        (["laptop", "smoke"], "smoke"),
    ],
)
def test_a_bad_value_is_refused_naming_the_field(capsys, arguments, field):
    message = refusal(capsys, *arguments)
    assert field in message and len(message.splitlines()) == 1 and message.startswith("error: ")


def test_a_call_without_arguments_uses_the_laptop_recipe():
    config = parse("", [])
    assert (config.recipe, config.run_name) == ("laptop", "laptop")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_chosen_by_name(recipe):
    config = parse("", [recipe, "--run-name", ""])
    assert config.run_name == recipe
    assert parse("", [recipe, "--run-name", "other"]).run_name == "other"
    assert (config.corpus, config.model, config.sweep) == (
        RECIPES[recipe]().corpus,
        RECIPES[recipe]().model,
        RECIPES[recipe]().sweep,
    )


def test_an_override_changes_only_its_field():
    changed = parse("", ["smoke", "--world.seed", "7", "--run-name", "w7", "--model.memory.top-k", "8"])
    plain = parse("", ["smoke"])
    assert (changed.world.seed, changed.run_name, changed.model.memory.top_k) == (7, "w7", 8)
    same = ("corpus", "pretraining", "counting", "stream", "method", "evaluation", "sweep", "cluster")
    assert all(getattr(changed, name) == getattr(plain, name) for name in same)


@pytest.mark.parametrize("method", [["--method", "lora"], ["--method=lora"]])
def test_a_method_by_name_brings_its_own_settings(method):
    assert parse("", [*method, "--method.rank", "8"]).method == LoRAConfig(rank=8)
    assert parse("", ["smoke", "--seed", "3", *method]).method == LoRAConfig()


def test_documents_named_on_the_command_line_are_learned():
    files = ("--questions.documents.path", "d.jsonl", "--questions.documents.questions", "q.jsonl")
    config = parse("", ["laptop", *files, "--stream.num-augmentations", "4"])
    documents = config.questions.documents
    assert documents is not None and (documents.path, documents.questions) == ("d.jsonl", "q.jsonl")
    assert isinstance(config.stream, DocumentStreamConfig) and config.stream.num_augmentations == 4


def test_documents_without_their_questions_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("", ["laptop", "--questions.documents.path", "d.jsonl"])
    assert stopped.value.code == 2
    assert "questions.documents.questions is missing" in capsys.readouterr().err


def test_a_relative_storage_is_below_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("", []).storage == f"{tmp_path}/runs"
    assert parse("", ["--storage", "here"]).storage == f"{tmp_path}/here"
    for elsewhere in ("/data/runs", "s3://bucket/runs"):
        assert parse("", ["--storage", elsewhere]).storage == elsewhere


def test_a_relative_storage_is_refused_in_a_submitted_job(capsys, monkeypatch):
    monkeypatch.setenv(IN_JOB, "{}")
    for arguments, value in (([], "runs"), (["--storage", "here"], "here")):
        message = refusal(capsys, *arguments)
        assert message.startswith(f"error: --storage is {value!r}; a submitted job needs an absolute path")
        assert message.count("\n") == 1
    for elsewhere in ("/data/runs", "s3://bucket/runs"):
        assert parse("", ["--storage", elsewhere]).storage == elsewhere


def test_every_path_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse("", ["laptop", "--corpus.path=~/shards", "--corpus.tokenizer", "~/tokenizer"])
    assert (config.corpus.path, config.corpus.tokenizer) == (f"{tmp_path}/shards", f"{tmp_path}/tokenizer")
    assert parse("", ["--storage=./~/runs"]).storage.endswith("/~/runs")
    assert parse("", ["--storage=~root/runs"]).storage == os.path.expanduser("~root/runs") != "~root/runs"


@pytest.mark.parametrize("inner", ["--recipe", "--arguments"])
def test_fields_that_the_command_line_fills_in_are_not_options(capsys, inner):
    """`--recipe smoke` must not label the laptop's settings as smoke's."""
    assert inner in refusal(capsys, inner, "smoke")


def help_of(capsys, monkeypatch, pipeline: str, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [pipeline, *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "pipelines" / pipeline), run_name="__main__")
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_help_shows_the_stage_its_usage_and_the_ten_most_important_options(capsys, monkeypatch, pipeline):
    page = help_of(capsys, monkeypatch, pipeline, "smoke", "--help")
    text = " ".join(page.split())
    says = runpy.run_path(str(ROOT / "pipelines" / pipeline))["__doc__"].split(". ")[0].split(".\n")[0]
    assert (
        " ".join(says.split()) in text
        and f"python pipelines/{pipeline} [recipe]" in text
        and "ray job submit --working-dir ." in text
    )
    assert all(f"\n  {name} " in page or recipe().base_run for name, recipe in RECIPES.items())
    assert all(re.search(rf"\b{name}\b", page) for name in RECIPES)
    shown = re.findall(r"^  (--[\w.-]+) ", page, flags=re.MULTILINE)
    assert len(set(shown)) == len(shown) == 10 and shown[:2] == ["--dry-run", "--storage"]
    assert len(page.splitlines()) < 50 and f"python pipelines/{pipeline} smoke --help-all" in page
    # Each is an option that this command uses.
    everything = help_of(capsys, monkeypatch, pipeline, "smoke", "--help-all")
    for option in shown[1:]:
        assert uses(pipeline[:-3], option)
        assert option == "--method" or f"{option} " in everything or option.startswith("--questions.documents.")
    assert "--world.seed" in everything and "--sweep.trunk-cache-bytes" in everything


def test_help_of_all_options_fills_its_lines(capsys, monkeypatch):
    page = help_of(capsys, monkeypatch, "finetune.py", "smoke", "--help-all")
    helps = re.findall(r"(?m)(?:^[│ ] {7}\S.*\n)+", page)
    assert helps
    for text in helps:
        for line, following in pairwise(line[8:-1].rstrip() for line in text.splitlines()):
            assert len(line) + 1 + len(following.split()[0]) > 70, text


def test_help_shows_the_defaults_of_the_named_recipe_and_method(capsys, monkeypatch):
    page = help_of(capsys, monkeypatch, "finetune.py", "smoke", "--method", "lora", "-h")
    assert re.search(r"--method +method of finetuning \(lora\)", page)
    assert re.search(r"--stream.num-facts .*\(6\)", page) and "(0.0002)" in page


def test_a_typo_fails_within_a_second_and_imports_nothing_heavy():
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "pipelines/finetune.py", "--method", "lorra"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stderr.splitlines()
    imported = {line.split("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "memlm.cli" in imported
    assert not imported & {
        "torch",
        "ray",
        "transformers",
        "mlflow",
        "deepspeed",
        "peft",
        "boto3",
        "pandas",
        "matplotlib",
    }
    assert done.returncode == 2
    assert [line for line in lines if not line.startswith("import time:")] == [
        "error: unknown method 'lorra'; did you mean 'lora'? Known: full, full_memory, in_context, lora, lora_memory, peft, retrieval, sparse_memory, sparse_memory_curvature, sparse_memory_decorrelated"
    ]
    # Processor time and not the clock's: the machine may be busy with other things.
    assert ended.ru_utime - began.ru_utime + ended.ru_stime - began.ru_stime < 2


def test_a_plan_does_not_import_torch():
    plan = "import sys; from memlm.cli import run_plan; run_plan(['smoke']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", plan], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert not {"torch", "transformers", "mlflow", "deepspeed", "boto3", "ray", "memlm.storage"} & imported


def test_the_driver_imports_nothing_that_only_workers_need():
    """A stage that reuses its artifact, a dry run and the doctor do not import torch."""
    jobs = [f"memlm.jobs.{job}" for job in ("finetune", "evaluate", "analyze_slots", "count_accesses")]
    plans = ["memlm.preflight.dry_run", "memlm.preflight.doctor", "memlm.jobs.sweep.planned_trials"]
    program = f"import sys, {', '.join([*jobs, *plans])}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "mlflow", "deepspeed", "boto3", "peft", "matplotlib", "ray.data", "ray.tune"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("pipeline", ["finetune.py", "pareto_sweep.py", "prepare_corpus.py"])
def test_a_command_prints_its_first_line_within_a_second(tmp_path, pipeline):
    began = [sys.executable, f"pipelines/{pipeline}", "smoke", "--storage", str(tmp_path)]
    with subprocess.Popen(began, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        # Processor time and not the clock's: the machine may be busy with other things.
        times = psutil.Process(process.pid).cpu_times()
        process.kill()
    assert re.fullmatch(rf"\[\d\d:\d\d:\d\d\] {pipeline[:-3]}: recipe smoke, run {tmp_path}/smoke\n", line)
    assert times.user + times.system < 1.5


def failing(error: BaseException):
    def job() -> None:
        raise error

    return job


def test_launch_returns_after_a_successful_job():
    assert launch(lambda: "done") is None


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("stream.num_facts is 9; lower it"), 1, "error: stream.num_facts is 9; lower it"),
        (FileNotFoundError(2, "No such file", "a.json"), 1, "error: [Errno 2] No such file: 'a.json'"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue"),
    ],
)
def test_launch_prints_errors_that_the_user_can_fix_on_one_line(capsys, error, code, said):
    with pytest.raises(SystemExit) as stopped:
        launch(failing(error))
    assert (stopped.value.code, capsys.readouterr().err) == (code, f"{said}\n")


class Wrapped(Exception):
    """Wrapper like Ray's around an error of a worker."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"a traceback\nof many lines\n{cause}")
        self.cause = cause


def test_launch_prints_a_workers_error_without_its_wrappers(capsys):
    with pytest.raises(SystemExit) as stopped:
        launch(failing(Wrapped(Wrapped(ValueError("lower it")))))
    assert (stopped.value.code, capsys.readouterr().err) == (1, "error: lower it\n")
    with pytest.raises(Wrapped):
        launch(failing(Wrapped(KeyError("a bug"))))


def test_launch_shows_a_traceback_for_bugs():
    with pytest.raises(AssertionError, match="a bug"):
        launch(failing(AssertionError("a bug")))


@pytest.mark.parametrize("arguments", [[], ["appply"], ["apply", "checkpoint"]])
def test_the_memlm_command_refuses_unknown_subcommands(arguments):
    command = [str(Path(sys.executable).parent / "memlm"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "apply" in done.stderr


def test_the_memlm_command_names_a_missing_artifact(tmp_path):
    command = [str(Path(sys.executable).parent / "memlm"), "apply", *(str(tmp_path / name) for name in "abc")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: artifact {tmp_path}/b") and done.stderr.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "given", ["--storage=~/runs", "--storage=~/x/../runs", "--storage=link/../runs", "--storage=here/../runs"]
)
def test_storage_is_one_path_in_every_spelling(tmp_path, monkeypatch, given):
    """No shell expands the `~` of `--storage=~/runs`; `..` after a link means the folder above the
    link's target."""
    (tmp_path / "there" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("there/inner")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    expected = tmp_path / "there" / "runs" if "link" in given else tmp_path / "runs"
    assert parse("", [given]).storage == str(expected)
    assert parse("", [given.replace("--storage=", "--checkpoint=")]).checkpoint == str(expected)
