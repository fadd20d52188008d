"""A sweep's runs in MLflow."""

import json
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from memlm import storage
from tests.jobs.sweep.results import METHODS, RUNS_OF, drop_of, mean_of, query

pytestmark = pytest.mark.ray


def key_of(swept, run: str) -> str:
    ((key,),) = query(swept, "SELECT value FROM tags WHERE run_uuid = ? AND key = 'memlm.key'", run)
    return key.removeprefix("trial/")


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
    counted = swept.frontier()["counted_sets"]
    pareto = Counter()
    for child in children:
        tags = dict(query(swept, "SELECT key, value FROM tags WHERE run_uuid = ?", child))
        assert tags["method"] in METHODS and tags["seed"] in ("0", "1")
        assert tags.keys() >= {"checkpoint", "data", "git_sha", "stage", "recipe"}
        pareto[tags["pareto"]] += 1
        params = dict(query(swept, "SELECT key, value FROM params WHERE run_uuid = ?", child))
        assert float(params["learning_rate"]) > 0 and len(params) <= 20
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
        drops = {name: drop_of(entry["start"][name], entry["end"][name]) for name in counted}
        drops["average"] = mean(max(drops[name], 0) for name in swept.frontier()["forgetting_sets"])
        logged = {name.removeprefix("drop/"): value for name, _, value in metrics if name.startswith("drop/")}
        assert logged == pytest.approx(drops) and final["learning"] == pytest.approx(final["new_facts"])
    assert pareto == {"true": 2 * len(on_frontier), "false": 12 - 2 * len(on_frontier)}
    ((folder,),) = query(swept, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", parent)
    kept = {path.name for path in Path(folder.removeprefix("file://")).iterdir()}
    assert kept == {"frontier.json", "frontier.csv", "frontier.png", "report.html", "items.json", "config.json"}
    config = json.loads((Path(folder.removeprefix("file://")) / "config.json").read_text())
    assert (config["recipe"], config["pretraining"]["num_steps"]) == ("smoke", 60)


READ = """
    SELECT datasets.name, input_tags.value FROM inputs JOIN datasets ON datasets.dataset_uuid = inputs.source_id
    JOIN input_tags USING (input_uuid) WHERE inputs.destination_id = ?
"""


def test_mlflow_names_every_data_set_and_run_names_are_unique(swept):
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


def test_a_checkpoints_run_names_its_digest_and_address(swept):
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
    assert slots == [(3,)]  # for the memory model only
