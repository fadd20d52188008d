import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from memlm import storage
from memlm.cli import parse
from memlm.recipes import RECIPES
from memlm.run import RunError, command, first_difference, is_made, require, run_of, tracking_uri


@pytest.mark.parametrize(
    "made, wanted, difference",
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": [1, [2]]}, {"a": (1, (2,))}, None),
        ({"a": {"b": {"c": 1.0}}}, {"a": {"b": {"c": 2.0}}}, ("a.b.c", 1.0, 2.0)),
        ({"a": [{"n": "x"}, {"n": "y"}]}, {"a": ({"n": "x"}, {"n": "z"})}, ("a[1].n", "y", "z")),
        ({"a": [1, 2]}, {"a": (1,)}, ("a", [1, 2], (1,))),
        ({"a": 1}, {"a": 1, "new": 3}, ("new", None, 3)),
        ({"a": 1, "old": 3}, {"a": 1}, ("old", 3, None)),
        ({"a": {"b": 1}}, {"a": None}, ("a", {"b": 1}, None)),
        ({"a": True}, {"a": False}, ("a", True, False)),
        ({"a": "1"}, {"a": 1}, ("a", "1", 1)),
    ],
)
def test_first_difference(made, wanted, difference):
    assert first_difference(made, wanted) == difference


def test_first_difference_goes_by_the_wanted_order():
    assert first_difference({"a": 1, "b": 1}, {"b": 2, "a": 2}) == ("b", 1, 2)


@pytest.fixture
def made(tmp_path) -> str:
    uri = str(tmp_path / "counts")
    config, inputs = {"num_batches": 20, "layers": (1, 2), "deep": {"seed": 0}}, {"checkpoint": "abc"}
    with storage.write_artifact(uri, kind="counts", config=config, inputs=inputs) as draft:
        (draft.path / "file").write_text("x")
    return uri


CONFIG = {"num_batches": 20, "layers": (1, 2), "deep": {"seed": 0}}


def test_what_is_not_there_is_not_made(tmp_path):
    assert not is_made(str(tmp_path / "counts"), kind="counts", config=CONFIG, inputs={})


def test_what_was_made_the_same_way_is_made(made):
    assert is_made(made, kind="counts", config=CONFIG, inputs={"checkpoint": "abc"})
    assert is_made(made, kind="counts", config={**CONFIG, "layers": [1, 2]}, inputs={"checkpoint": "abc"})


@pytest.mark.parametrize(
    "changed, field, was, wanted",
    [
        ({"num_batches": 30}, "num_batches", "20", "30"),
        ({"layers": (1, 3)}, "layers[1]", "2", "3"),
        ({"deep": {"seed": 7}}, "deep.seed", "0", "7"),
        ({"new": True}, "new", "None", "True"),
    ],
)
def test_what_was_made_otherwise_is_refused_naming_field_and_both_values(made, changed, field, was, wanted):
    with pytest.raises(RunError) as refused:
        is_made(made, kind="counts", config={**CONFIG, **changed}, inputs={"checkpoint": "abc"})
    message = str(refused.value)
    assert f"{field} = {was}" in message and f"{field} = {wanted}" in message and made in message
    assert "--run-name" in message and "delete" in message


def test_the_field_is_named_as_it_is_set(made):
    with pytest.raises(RunError, match="counting.deep.seed = 0, and now counting.deep.seed = 7"):
        is_made(made, kind="counts", config={**CONFIG, "deep": {"seed": 7}}, inputs={}, part="counting")


def test_what_was_made_from_something_else_is_refused_naming_it(made):
    with pytest.raises(RunError, match=rf"{re.escape(made)} was made from another checkpoint.*--run-name"):
        is_made(made, kind="counts", config=CONFIG, inputs={"checkpoint": "abd"})


def test_an_artifact_of_another_kind_is_refused(made):
    with pytest.raises(storage.StorageError, match="is of kind 'counts', not 'corpus'"):
        is_made(made, kind="corpus", config=CONFIG, inputs={})


CONFIGS = [
    replace(RECIPES["smoke"](), run_name="smoke", storage=os.path.abspath("runs")),
    replace(RECIPES["laptop"](), run_name="w7", storage="/data/runs"),
    replace(RECIPES["wiki"](), run_name="wiki", storage="s3://bucket/runs"),
]
COMMANDS = ["prepare_corpus.py", "count_accesses.py", "pretrain.py --architecture dense"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.run_name)
@pytest.mark.parametrize("made_by", COMMANDS)
def test_require_names_a_command_that_works(tmp_path, config, made_by):
    """What is named is a pipeline that exists, and its arguments parse to the same run."""
    with pytest.raises(RunError) as refused:
        require(str(tmp_path / "corpus"), kind="corpus", made_by=made_by, config=config)
    told = str(refused.value)
    assert told.startswith(f"{tmp_path}/corpus is missing; make it with: {command(made_by, config)}")
    python, pipeline, *arguments = told.split("make it with: ")[1].split()
    assert python == "python" and (Path(__file__).parents[1] / pipeline).is_file()
    parsed = parse("", arguments)
    assert (parsed.recipe, parsed.run_name, parsed.storage) == (config.recipe, config.run_name, config.storage)
    assert parsed.architecture == ("dense" if "dense" in made_by else "memory")


def test_require_gives_the_manifest_of_what_is_there(made):
    manifest = require(made, kind="counts", made_by="count_accesses.py", config=CONFIGS[0])
    assert manifest == storage.read_manifest(made)


def test_every_product_of_a_run_has_a_place_of_its_own():
    run = run_of(CONFIGS[1])
    places = [
        run.world,
        run.corpus,
        run.checkpoint("memory"),
        run.checkpoint("dense"),
        run.training_states("memory"),
        run.training_states("dense"),
        run.counts,
        run.partial_counts,
        run.trials,
        run.learned("a"),
        run.learned("b"),
    ]
    assert len(set(places)) == len(places)
    assert all(place.startswith("/data/runs/w7/") for place in places)


def test_a_run_is_a_folder_of_its_storage():
    assert run_of(CONFIGS[1]).uri == "/data/runs/w7"
    assert run_of(CONFIGS[2]).uri == "s3://bucket/runs/wiki"


def test_a_relative_storage_is_refused():
    """Workers run in other folders; the command line makes it absolute before."""
    with pytest.raises(storage.StorageError, match="--storage runs: must be absolute"):
        run_of(replace(CONFIGS[0], storage="runs"))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_run_name_that_is_no_folder_is_refused(name):
    with pytest.raises(RunError, match="--run-name"):
        run_of(replace(CONFIGS[0], run_name=name))


def test_the_tracking_address():
    assert tracking_uri(CONFIGS[1]) == "sqlite:////data/runs/mlflow.db"
    assert tracking_uri(replace(CONFIGS[1], tracking="off")) == ""
    assert tracking_uri(replace(CONFIGS[2], tracking="http://h:5000")) == "http://h:5000"
    with pytest.raises(RunError, match="--storage is s3://bucket/runs.*--tracking"):
        tracking_uri(CONFIGS[2])
