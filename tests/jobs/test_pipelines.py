"""A complete smoke run up to the frontier, and the uses of its results."""

import csv
import html
import json
import re
import shlex
from collections import Counter
from statistics import mean

import pytest

from memlm import artifacts, storage
from memlm.cli import parse
from memlm.jobs.sweep.planned_trials import plan_trials
from memlm.jobs.trial.materials import load_materials, load_model
from memlm.tracking import git_sha
from memlm.training.finetune import run_trial
from tests.jobs.running import ROOT, smoke
from tests.jobs.sweep.results import HELD_OUT, METHODS, ONE_EVERY_TIME, SEEDS, drop_of, margin_of, mean_of
from tune_spaces import load_spaces

pytestmark = pytest.mark.ray


def test_every_stage_prints_its_progress(swept):
    out = swept.ended.out
    for stage in (
        "world",
        "tokenizer",
        "packing shards",
        "corpus",
        "pretrain memory",
        "pretrain dense",
        "counting accesses",
    ):
        assert re.search(rf"^\[[\d:]+\] {stage}", out, re.MULTILINE), stage
    assert re.search(r"sweep: 12/12 in \d+ s, about 0 s to go", out)
    assert f"mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///{swept.storage}/mlflow.db" in out
    assert "Traceback" not in out + swept.ended.err


def test_every_artifact_is_made_once_and_completely(swept):
    assert swept.made == {
        "world",
        "tokenizer",
        "corpus",
        "questions",
        "checkpoint-memory",
        "checkpoint-dense",
        "counts",
        *(f"blocks/part_0000{number}" for number in range(3)),
    }
    left = [path for path in swept.run.rglob("*") if path.name.endswith(".partial") or "training-" in path.name]
    assert left == [] and not (swept.run / "counts-partial").exists()
    for name in swept.made:
        storage.open_artifact(str(swept.run / name))


@pytest.mark.parametrize(("architecture", "model_type"), [("memory", "memory_llama"), ("dense", "llama")])
def test_a_checkpoint_folder_is_self_contained(swept, architecture, model_type):
    folder = swept.run / f"checkpoint-{architecture}"
    named = storage.read_manifest(str(folder)).files
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= named.keys()
    assert ("modeling_memory_llama.py" in named) == (architecture == "memory")
    assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 512 and "local_files_only" not in tokenizer
    assert str(swept.storage) not in (folder / "README.md").read_text()


def test_the_ledger_holds_every_setting_of_every_method_with_every_seed(swept):
    entries = [json.loads(path.read_text())["result"] for path in swept.ledger().values()]
    assert Counter(entry["method"] for entry in entries) == dict.fromkeys(METHODS, 4)
    assert Counter(entry["seed"] for entry in entries) == {0: 6, 1: 6}
    settings = {
        json.dumps([entry["method"], entry["hyperparameters"], entry["seed"]], sort_keys=True) for entry in entries
    }
    assert len(settings) == 12
    for entry in entries:
        assert entry["start"].keys() == entry["end"].keys() == {"new_facts", *HELD_OUT}
        assert entry["extra"]["steps"] == 12  # 6 facts, 2 passes


def test_trials_of_a_seed_share_their_start_and_seeds_have_different_facts(swept):
    entries = [json.loads(path.read_text())["result"] for path in swept.ledger().values()]
    bases = {"sparse_memory": "memory", "lora": "dense", "full": "dense"}
    for base in ("memory", "dense"):
        of_base = [entry for entry in entries if bases[entry["method"]] == base]
        for name in HELD_OUT:
            assert len({json.dumps(entry["start"][name]) for entry in of_base}) == 1
        for seed in SEEDS:
            starts = [json.dumps(entry["start"]) for entry in of_base if entry["seed"] == seed]
            assert len(set(starts)) == 1


@pytest.mark.parametrize("method", ONE_EVERY_TIME)
def test_a_trial_of_the_sweep_is_the_trial_alone_to_the_bit(swept, method):
    """Sharing weights and activations among trials changes no score."""
    config = smoke(swept.storage)
    planned, inputs = plan_trials(config, load_spaces([method], "smoke"))
    (read,) = inputs.values()
    materials = load_materials(config, read)
    for plan in (planned[0], planned[-1]):
        model = load_model(artifacts.checkpoint(config, plan.architecture).uri)
        alone, _ = run_trial(plan.trial, model, materials, key=plan.key)
        entries = [json.loads(json.dumps(alone.to_json())), json.loads(swept.ledger()[plan.key].read_text())["result"]]
        for entry in entries:
            for name in ("seconds", "seconds_learning"):
                assert entry["extra"].pop(name) > 0
        assert [entry.pop("commit") for entry in entries] == ["", git_sha()]
        assert entries[0] == entries[1]


def assert_interval(value: float, bounds: list[float]) -> None:
    low, high = bounds
    assert low <= high and low - 0.05 <= value <= high + 0.05


def test_frontier_json_has_the_documented_fields(swept):
    frontier = swept.frontier()
    assert frontier["recipe"] == "smoke"
    assert frontier.keys() >= {"recipe", "points", "forgetting_sets", "hypervolume", "matched", "paired", "lacks"}
    assert frontier["lacks"] == [] and frontier["chosen_on"] == "evaluation"
    assert frontier["forgetting_sets"] and set(frontier["forgetting_sets"]) <= HELD_OUT
    assert frontier["hypervolume"].keys() == set(METHODS)
    assert all(0 <= volume <= 1 for volume in frontier["hypervolume"].values())
    points = frontier["points"]
    assert Counter(point["method"] for point in points) == dict.fromkeys(METHODS, 2)
    wanted = ("method", "hyperparameters", "seeds", "learning", "learning_ci", "forgetting", "forgetting_ci", "scores")
    for point in points:
        assert point.keys() >= {*wanted, "on_frontier"}
        assert point["seeds"] == SEEDS and 0 <= point["learning"] <= 1
        assert point["scores"].keys() >= {"new_facts", *HELD_OUT, "new_facts_f1", "known_facts_f1"}
        assert "optimizer.learning_rate" in point["hyperparameters"] and isinstance(point["on_frontier"], bool)
        assert_interval(point["learning"], point["learning_ci"])
        assert_interval(point["forgetting"], point["forgetting_ci"])
    assert {point["method"] for point in points if point["on_frontier"]} == set(METHODS)
    assert set(frontier["start"]) == set(METHODS)
    levels = [level["learning"] for level in frontier["matched"]]
    assert levels == sorted(levels)
    for level in frontier["matched"]:
        assert level["learning"] * 10 == pytest.approx(round(level["learning"] * 10))
        assert level["methods"].keys() >= set(METHODS)
        for at_level in level["methods"].values():
            assert_interval(at_level["forgetting"], at_level["ci"])


def test_points_agree_with_the_ledger(swept):
    entries = [json.loads(path.read_text())["result"] for path in swept.ledger().values()]
    frontier = swept.frontier()
    scores = [(name, entry["start"][name]) for name in HELD_OUT - {"text_ends"} for entry in entries]
    near = {name for name, score in scores if margin_of(score) < 0.05}
    assert set(frontier["counted_sets"]) <= {name for name, _ in scores} - near
    assert frontier["left_out"].keys() >= {*near, "text_ends"}
    for point in frontier["points"]:
        own = [
            entry
            for entry in entries
            if (entry["method"], entry["hyperparameters"]) == (point["method"], point["hyperparameters"])
        ]
        assert sorted(entry["seed"] for entry in own) == point["seeds"]
        assert point["learning"] == pytest.approx(mean(mean_of(entry["end"]["new_facts"]) for entry in own), abs=1e-9)
        drops = [
            max(0, mean(drop_of(entry["start"][name], entry["end"][name]) for entry in own))
            for name in frontier["forgetting_sets"]
        ]
        assert point["forgetting"] == pytest.approx(mean(drops), abs=1e-9)


def test_the_table_the_picture_and_the_report(swept):
    with open(swept.run / "frontier.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    points = swept.frontier()["points"]
    assert [(row["method"], float(row["learning"])) for row in rows] == [(p["method"], p["learning"]) for p in points]
    assert (swept.run / "frontier.png").read_bytes().startswith(b"\x89PNG")
    report = (swept.run / "report.html").read_text()
    assert "<html" in report and "smoke" in report
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)\s*=\s*[\"'](?!data:)", report)


def test_the_report_shows_each_stages_duration_and_command(swept):
    stages = storage.read_record(f"{swept.run}/stages.json")
    assert len(stages) == 4 and sum(stage["seconds"] for stage in stages.values()) < swept.ended.seconds
    report = html.unescape((swept.run / "report.html").read_text())
    for stage in stages.values():
        assert stage["command"] in report
        python, pipeline, *arguments = shlex.split(stage["command"])
        assert python == "python" and (ROOT / pipeline).is_file()
        assert parse("", arguments).storage == str(swept.storage)
