"""The whole path at the smoke recipe's size, from nothing to a frontier, and what a user does
with it afterwards."""

import csv
import filecmp
import html
import json
import re
import shlex
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from statistics import mean

import matplotlib.image
import pytest
from safetensors.torch import load_file

from memlm import storage
from memlm.cli import parse
from memlm.jobs import count_accesses, counting_units, evaluate, finetune, pareto_sweep, prepare_corpus, pretrain
from memlm.jobs.sweep.planned_trials import plan_trials
from memlm.jobs.trial.materials import load_materials, load_model
from memlm.run import counts_config, run_of
from memlm.slots.counts import BackgroundCounts
from memlm.training.finetune import run_trial
from memlm.training.patch import apply_patch, undo_patch
from tests.jobs.running import BIN, ROOT, artifacts_in, refused, run_command, smoke
from tune_spaces import load_spaces

pytestmark = pytest.mark.ray

METHODS = ["sparse_memory", "lora", "full"]
ONE_EVERY_TIME = [METHODS[0], *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])]
HELD_OUT = {"arithmetic", "background_text", "known_facts"}
SEEDS = [0, 1]


def sweep(config) -> str:
    return pareto_sweep.run(config, load_spaces(config.sweep.methods, config.sweep.scale))


# The first run.


def test_every_stage_says_how_far_it_is(swept):
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


def test_everything_is_made_once_and_nothing_is_left_half_made(swept):
    assert artifacts_in(swept.run) == {
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
    for name in artifacts_in(swept.run):
        storage.open_artifact(str(swept.run / name))


@pytest.mark.parametrize(("architecture", "model_type"), [("memory", "memory_llama"), ("dense", "llama")])
def test_a_checkpoint_is_whole_for_a_stranger(swept, architecture, model_type):
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


def test_trials_of_one_seed_start_from_the_same_scores_and_seeds_have_other_facts(swept):
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
    """What the sweep's trials share, of weights and of activations, changes no score."""
    config = smoke(swept.storage)
    run = run_of(config)
    planned, inputs = plan_trials(config, load_spaces([method], "smoke"))
    (read,) = inputs.values()
    materials = load_materials(run, config.evaluation.num_text_blocks, read)
    for plan in (planned[0], planned[-1]):
        model = load_model(run.checkpoint(plan.architecture))
        alone, _ = run_trial(plan.trial, model, materials, key=plan.key)
        entries = [json.loads(json.dumps(alone.to_json())), json.loads(swept.ledger()[plan.key].read_text())["result"]]
        for entry in entries:
            for name in ("seconds", "seconds_learning"):
                assert entry["extra"].pop(name) > 0
        assert entries[0] == entries[1]


def assert_interval(value: float, bounds: list[float]) -> None:
    low, high = bounds
    assert low <= high and low - 0.05 <= value <= high + 0.05


def test_frontier_json_is_as_the_issue_says(swept):
    frontier = swept.frontier()
    assert frontier["recipe"] == "smoke"
    assert frontier.keys() >= {"recipe", "points", "forgetting_sets", "hypervolume", "matched"}
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


def mean_of(score: dict) -> float:
    return mean(score["items"])


def drop_of(start: dict, end: dict) -> float:
    """Issue 3, item 9, word by word."""
    if start["measure"] == "nats_per_token":
        return (mean_of(end) - mean_of(start)) / mean_of(start)
    return (mean_of(start) - mean_of(end)) / (mean_of(start) - start["chance"])


def test_points_are_what_the_ledger_says(swept):
    entries = [json.loads(path.read_text())["result"] for path in swept.ledger().values()]
    frontier = swept.frontier()
    margins = {
        name: min(mean_of(entry["start"][name]) - entry["start"][name]["chance"] for entry in entries)
        for name in HELD_OUT
    }
    assert frontier["forgetting_sets"] == sorted(name for name in HELD_OUT if margins[name] >= 0.05)
    for point in frontier["points"]:
        own = [
            entry
            for entry in entries
            if (entry["method"], entry["hyperparameters"]) == (point["method"], point["hyperparameters"])
        ]
        assert sorted(entry["seed"] for entry in own) == point["seeds"]
        assert point["learning"] == pytest.approx(mean(mean_of(entry["end"]["new_facts"]) for entry in own), abs=1e-9)
        forgetting = [
            mean(drop_of(entry["start"][name], entry["end"][name]) for name in frontier["forgetting_sets"])
            for entry in own
        ]
        assert point["forgetting"] == pytest.approx(mean(forgetting), abs=1e-9)


def test_the_table_the_picture_and_the_report(swept):
    with open(swept.run / "frontier.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    points = swept.frontier()["points"]
    assert [(row["method"], float(row["learning"])) for row in rows] == [(p["method"], p["learning"]) for p in points]
    assert (swept.run / "frontier.png").read_bytes().startswith(b"\x89PNG")
    report = (swept.run / "report.html").read_text()
    assert "<html" in report and "smoke" in report
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)\s*=\s*[\"'](?!data:)", report)


def test_the_report_says_how_long_each_stage_took_and_names_its_command(swept):
    stages = storage.read_record(f"{swept.run}/stages.json")
    assert len(stages) == 4 and sum(stage["seconds"] for stage in stages.values()) < swept.ended.seconds
    report = html.unescape((swept.run / "report.html").read_text())
    for stage in stages.values():
        assert stage["command"] in report
        python, pipeline, *arguments = shlex.split(stage["command"])
        assert python == "python" and (ROOT / pipeline).is_file()
        assert parse("", arguments).storage == str(swept.storage)


def query(swept, sql: str, *values: str) -> list:
    with closing(sqlite3.connect(swept.storage / "mlflow.db")) as connection:
        return connection.execute(sql, values).fetchall()


def key_of(swept, run: str) -> str:
    ((key,),) = query(swept, "SELECT value FROM tags WHERE run_uuid = ? AND key = 'memlm.key'", run)
    return key.removeprefix("trial/")


RUNS_OF = """
    SELECT run_uuid, (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = 'mlflow.parentRunId')
    FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?
"""


def test_mlflow_has_one_parent_with_a_child_per_trial(swept):
    runs = query(swept, RUNS_OF, "memlm pareto sweeps")
    (parent,) = [run for run, above in runs if above is None]
    children = [run for run, above in runs if above == parent]
    assert len(children) == 12 and len(runs) == 13
    assert query(swept, "SELECT DISTINCT status FROM runs") == [("FINISHED",)]
    on_frontier = {
        json.dumps(point["hyperparameters"], sort_keys=True)
        for point in swept.frontier()["points"]
        if point["on_frontier"]
    }
    entries = [json.loads(path.read_text())["result"] for path in swept.ledger().values()]
    counted = swept.frontier()["forgetting_sets"]
    pareto = Counter()
    for child in children:
        tags = dict(query(swept, "SELECT key, value FROM tags WHERE run_uuid = ?", child))
        assert tags["method"] in METHODS and tags["seed"] in ("0", "1")
        assert tags.keys() >= {"checkpoint", "data", "git_sha", "stage", "recipe"}
        pareto[tags["pareto"]] += 1
        params = dict(query(swept, "SELECT key, value FROM params WHERE run_uuid = ?", child))
        assert float(params["learning_rate"]) > 0 and len(params) <= 17
        assert (
            params.items()
            >= {"method": tags["method"], "seed": tags["seed"], "width": "64", "layers": "2", "batch": "4"}.items()
        )
        assert tags["mlflow.source.git.commit"] == tags["git_sha"].removesuffix("-dirty") and tags["mlflow.user"]
        metrics = query(swept, "SELECT key, step, value FROM metrics WHERE run_uuid = ?", child)
        assert sorted(step for name, step, _ in metrics if name == "train/loss") == [*range(1, 13)]
        final = {name.removeprefix("final/"): value for name, _, value in metrics if name.startswith("final/")}
        (entry,) = [entry for entry in entries if entry["key"] == key_of(swept, child)]
        assert {name: final[name] for name in entry["end"]} == pytest.approx(
            {name: mean_of(score) for name, score in entry["end"].items()}
        )
        start = {name.removeprefix("start/"): value for name, _, value in metrics if name.startswith("start/")}
        assert start == pytest.approx({name: mean_of(score) for name, score in entry["start"].items()})
        drops = [drop_of(entry["start"][name], entry["end"][name]) for name in counted]
        assert (final["learning"], final["forgetting"]) == pytest.approx((final["new_facts"], mean(drops)))
    assert pareto == {"true": 2 * len(on_frontier), "false": 12 - 2 * len(on_frontier)}
    ((folder,),) = query(swept, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", parent)
    kept = {path.name for path in Path(folder.removeprefix("file://")).iterdir()}
    assert kept == {"frontier.json", "frontier.csv", "frontier.png", "report.html", "config.json"}
    config = json.loads((Path(folder.removeprefix("file://")) / "config.json").read_text())
    assert (config["recipe"], config["pretraining"]["num_steps"]) == ("smoke", 60)


READ = """
    SELECT datasets.name, input_tags.value FROM inputs JOIN datasets ON datasets.dataset_uuid = inputs.source_id
    JOIN input_tags USING (input_uuid) WHERE inputs.destination_id = ?
"""


def test_mlflow_names_every_data_set_that_a_run_read_and_no_two_runs_are_named_alike(swept):
    sets = {
        ("corpus", "evaluation"),
        ("new_facts", "training"),
        ("known_facts", "evaluation"),
        ("arithmetic", "evaluation"),
    }
    for run, _ in query(swept, RUNS_OF, "memlm pareto sweeps"):
        assert set(query(swept, READ, run)) == sets
    for experiment in ("memlm pretraining", "memlm background counts"):
        for run, _ in query(swept, RUNS_OF, experiment):
            assert query(swept, READ, run) == [("corpus", "training")]
    names = [name for (name,) in query(swept, "SELECT name FROM runs")]
    assert len(set(names)) == len(names) == 16


def test_a_checkpoints_own_run_names_its_digest_and_place(swept):
    found = dict(query(swept, "SELECT value, run_uuid FROM tags WHERE key = 'checkpoint.digest'"))
    for architecture in ("memory", "dense"):
        folder = swept.run / f"checkpoint-{architecture}"
        run = found[storage.read_manifest(str(folder)).digest]
        tags = dict(query(swept, "SELECT key, value FROM tags WHERE run_uuid = ?", run))
        assert (tags["checkpoint.uri"], tags["architecture"]) == (str(folder), architecture)


def test_mlflow_has_pretraining_and_counting_too(swept):
    assert len(query(swept, RUNS_OF, "memlm pretraining")) == 2
    assert len(query(swept, RUNS_OF, "memlm background counts")) == 1
    curve = query(swept, "SELECT DISTINCT step FROM metrics WHERE key = 'train/tokens_per_second' ORDER BY step")
    assert curve == [(20,), (40,), (60,)]
    slots = query(swept, "SELECT COUNT(*) FROM metrics WHERE key = 'slots/entropy'")
    assert slots == [(3,)]  # of the memory model only


# Run again.


def times_of(swept) -> dict[str, int]:
    files = [path for path in swept.run.rglob("*") if path.is_file() and path.name != ".lock"]
    kept = ("manifest.json", "blocks.parquet", "model.safetensors", "counts.safetensors")
    return {str(path): path.stat().st_mtime_ns for path in files if path.name in kept or path.parent.name == "trials"}


def without_times(frontier: dict) -> dict:
    points = [
        {**point, "scores": {name: value for name, value in point["scores"].items() if not name.startswith("seconds")}}
        for point in frontier["points"]
    ]
    return {**frontier, "points": points, "digest": ""}


def test_run_again_it_reuses_all_that_is_done(swept, cluster, capsys):
    before, times, began = swept.frontier(), times_of(swept), time.monotonic()
    sweep(smoke(swept.storage))
    assert time.monotonic() - began < 30
    out = capsys.readouterr().out
    assert all(f"{stage}: reusing" in out for stage in ("corpus", "count")) and "12 of them finished before" in out
    assert times_of(swept) == times
    assert swept.frontier() == before
    assert len(query(swept, RUNS_OF, "memlm pareto sweeps")) == 13


def test_trials_that_are_missing_are_run_again_alone_and_end_where_they_ended(swept, cluster, capsys):
    before, times, ledger = swept.frontier(), times_of(swept), swept.ledger()
    lost = [next(path for path in ledger.values() if f'"{method}"' in path.read_text()) for method in METHODS]
    results = {path: json.loads(path.read_text())["result"] for path in lost}
    for path in lost:
        path.unlink()
    sweep(smoke(swept.storage))
    out = capsys.readouterr().out
    assert "12 trials, 9 of them finished before" in out and "sweep: 3/3" in out
    changed = {path for path, when in times_of(swept).items() if times[path] != when}
    assert changed == {str(path) for path in lost}
    for path, result in results.items():
        again = json.loads(path.read_text())["result"]
        assert {name: again[name] for name in ("start", "end", "key")} == {
            name: result[name] for name in ("start", "end", "key")
        }
    assert without_times(swept.frontier()) == without_times(before)
    assert len(query(swept, RUNS_OF, "memlm pareto sweeps")) == 13


def test_a_run_is_drawn_beside_the_others_that_it_names(swept, cluster, capsys):
    """With all its trials in the other's ledger: nothing is run, and one picture shows both."""
    config = smoke(
        swept.storage, "--run-name", "beside", "--base-run", "smoke", "--sweep.compare-with", "smoke", "none"
    )
    sweep(config)
    out = capsys.readouterr().out
    assert "12 trials, 12 of them finished before" in out
    assert f"joint picture: {swept.storage}/none has no frontier yet; run pareto_sweep.py none" in out
    one, two = (matplotlib.image.imread(swept.storage / "beside" / name) for name in ("frontier.png", "joint.png"))
    assert two.shape[1] > 1.3 * one.shape[1]


# One method, its patch, and its scores.


@pytest.fixture(scope="module", params=ONE_EVERY_TIME)
def learned(request, swept, cluster) -> tuple[str, Path, Path]:
    """A method, what it learned, and the checkpoint that it learned from."""
    config = smoke(swept.storage, "--method", request.param, "--method.optimizer.learning-rate", "0.01")
    base = "memory" if request.param == "sparse_memory" else "dense"
    return request.param, Path(finetune.run(config)), swept.run / f"checkpoint-{base}"


def test_a_patch_is_applied_and_undone_byte_for_byte(swept, learned, tmp_path):
    method, patch, base = learned
    patched, undone = tmp_path / "patched", tmp_path / "undone"
    if method == "sparse_memory":  # once as a user does
        for name, checkpoint, output in (("apply", base, patched), ("undo", patched, undone)):
            ended = run_command(str(BIN / "memlm"), name, str(checkpoint), str(patch), str(output))
            assert (ended.code, ended.err) == (0, "") and ended.out.endswith(f"\nwrote {output}\n")
    else:
        apply_patch(str(base), str(patch), str(patched))
        undo_patch(str(patched), str(patch), str(undone))
    files = sorted(path.name for path in base.iterdir() if path.name != "manifest.json")
    assert filecmp.cmpfiles(base, undone, files, shallow=False) == (files, [], [])
    assert filecmp.cmpfiles(base, patched, files, shallow=False)[1] == ["model.safetensors"]
    before, after = (load_file(folder / "model.safetensors") for folder in (base, patched))
    changed = {
        name: int((before[name] != after[name]).flatten(1).any(dim=1).sum()) if before[name].ndim > 1 else None
        for name in before
    }
    rows = json.loads((patch / "manifest.json").read_text())["details"]["rows"]
    assert {name: count for name, count in changed.items() if count} == {
        name: count for name, count in rows.items() if before[name].ndim > 1
    }
    if method == "sparse_memory":
        assert list(rows) == ["model.value_pools.0.weight"] and rows["model.value_pools.0.weight"] < 1024


def test_a_patched_checkpoint_scores_what_the_finetune_scored(swept, learned, tmp_path):
    method, patch, base = learned
    trial = json.loads((patch / "scores.json").read_text())
    apply_patch(str(base), str(patch), str(tmp_path / "patched"))
    architecture = "memory" if method == "sparse_memory" else "dense"
    for checkpoint, scored in ((str(tmp_path / "patched"), trial["end"]), ("", trial["start"])):
        where = evaluate.run(smoke(swept.storage, "--checkpoint", checkpoint, "--architecture", architecture))
        report = storage.read_json(where)
        assert report["sets"] == scored
        assert report["extra"].keys() == {
            *(f"{name}_f1" for name in ("new_facts", "known_facts", "arithmetic")),
            "background_text_perplexity",
            "background_text_bits_per_byte",
            "new_facts_answer_nats",
        }


def test_a_finetune_that_is_done_is_reused(swept, learned, cluster, capsys):
    method, patch, _ = learned
    when = (patch / "manifest.json").stat().st_mtime_ns
    config = smoke(swept.storage, "--method", method, "--method.optimizer.learning-rate", "0.01")
    assert finetune.run(config) == str(patch)
    assert f"finetune: reusing {patch}" in capsys.readouterr().out
    assert (patch / "manifest.json").stat().st_mtime_ns == when


def test_sweep_and_finetune_agree_on_the_same_trial(swept, cluster):
    """The actor that runs many trials, and shares weights and start scores among them, changes
    none of them."""
    entry = next(
        entry
        for entry in (json.loads(path.read_text())["result"] for path in swept.ledger().values())
        if entry["method"] == "sparse_memory" and entry["seed"] == 1
    )
    settings = entry["hyperparameters"]
    config = smoke(
        swept.storage,
        *("--seed", "1", "--method.num-trainable-slots", str(settings["num_trainable_slots"])),
        *("--method.optimizer.learning-rate", str(settings["optimizer.learning_rate"])),
    )
    patch = finetune.run(config)
    result = storage.read_json(storage.join(patch, "scores.json"))
    assert {name: result[name] for name in ("key", "start", "end")} == {
        name: entry[name] for name in ("key", "start", "end")
    }
    # And the finetune, which is looked at alone, leaves its answers, a picture and a page.
    for name, answers in result["answers"].items():
        right = [each["after"].strip() in each["accepted"] for each in answers]
        assert len(answers) >= len(result["end"][name]["items"]) and all(
            each.keys() >= {"question", "before"} for each in answers
        )
        assert sum(right) <= len(answers) * mean_of(result["end"][name]) + 1e-6
    assert (Path(patch) / "report.html").is_file() and (Path(patch) / "scores.png").is_file()


# Counting, interrupted.


@pytest.fixture
def copied(swept, tmp_path) -> Path:
    """A run of its own that may be spoiled: the world, the corpus and the checkpoints of the
    smoke run."""
    kept = shutil.ignore_patterns("trials", "ray", "learned", "scores", "frontier*", "report*")
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=kept)
    return tmp_path


def test_counting_goes_on_with_the_partials_that_are_there(copied, cluster):
    """A partial that claims a thousand tokens more shows that it was added up and not counted
    again."""
    run, config = copied / "smoke", smoke(copied)
    whole = BackgroundCounts.load(run / "counts" / "counts.safetensors")
    manifest = storage.read_manifest(str(run / "counts"))
    shutil.rmtree(run / "counts")
    marked = BackgroundCounts.zero(len(whole.accesses))
    marked = BackgroundCounts(**{**vars(marked), "num_tokens": 1000})
    wanted = {**counts_config(config), "first": 5, "last": 10}
    partial = str(run / "counts-partial" / "unit_0000005_0000010")
    with storage.write_artifact(
        partial, kind=counting_units.PARTIAL_KIND, config=wanted, inputs=manifest.inputs
    ) as draft:
        marked.save(draft.path / counting_units.COUNTS_FILE)
    counted = BackgroundCounts.load(Path(count_accesses.run(config)) / "counts.safetensors")
    assert counted.num_batches == 15  # three units of five, and the marked one of none
    assert counted.num_tokens == 1000 + whole.num_tokens * 15 // 20
    assert not (run / "counts-partial").exists()


# What does not fit together.


@pytest.mark.parametrize(
    "job, changed, was, wanted",
    [
        (sweep, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (prepare_corpus.run, ["--corpus.block-size", "32"], "block_size = 64", "block_size = 32"),
        (pretrain.run, ["--pretraining.num-steps", "61"], "num_steps = 60", "num_steps = 61"),
        (count_accesses.run, ["--counting.num-batches", "21"], "num_batches = 20", "num_batches = 21"),
        (pretrain.run, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (count_accesses.run, ["--corpus.block-size", "32"], "block_size = 64", "block_size = 32"),
        (finetune.run, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (finetune.run, ["--pretraining.num-steps", "61"], "num_steps = 60", "num_steps = 61"),
        (finetune.run, ["--counting.num-batches", "21"], "num_batches = 20", "num_batches = 21"),
        (evaluate.run, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (evaluate.run, ["--model.num-layers", "3"], "num_layers = 2", "num_layers = 3"),
    ],
)
def test_the_same_run_name_with_another_config_is_refused_naming_the_field(
    swept, cluster, capfd, job, changed, was, wanted
):
    before = times_of(swept)
    line = refused(capfd, job, smoke(swept.storage, *changed))
    assert was in line and wanted in line and "--run-name" in line and str(swept.run) in line
    assert times_of(swept) == before


@pytest.mark.parametrize(
    "job, gone, named",
    [
        (pretrain.run, "corpus", "prepare_corpus.py smoke"),
        (count_accesses.run, "corpus", "prepare_corpus.py smoke"),
        (count_accesses.run, "checkpoint-memory", "pretrain.py smoke"),
        (finetune.run, "corpus", "prepare_corpus.py smoke"),
        (finetune.run, "checkpoint-memory", "pretrain.py smoke"),
        (finetune.run, "counts", "count_accesses.py smoke"),
        (evaluate.run, "corpus", "prepare_corpus.py smoke"),
        (evaluate.run, "checkpoint-memory", "pretrain.py smoke"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(copied, capfd, job, gone, named):
    shutil.rmtree(copied / "smoke" / gone)
    left = artifacts_in(copied)
    line = refused(capfd, job, smoke(copied))
    assert line.startswith(f"error: {copied}/smoke/{gone} is missing; make it with: python pipelines/{named}")
    assert parse("", shlex.split(line.split("make it with: ")[1])[2:]).storage == str(copied)
    assert artifacts_in(copied) == left


def test_lora_needs_no_counts(copied, cluster):
    shutil.rmtree(copied / "smoke" / "counts")
    assert storage.has_artifact(finetune.run(smoke(copied, "--method", "lora", "--tracking", "off")))
