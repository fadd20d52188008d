import os
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.cli import parse
from memlm.config import Config
from memlm.identity import first_difference
from memlm.recipes import RECIPES
from memlm.run import RunError, command, run_of, tracking_uri
from memlm.stages import uses


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


def test_first_difference_follows_the_wanted_order():
    assert first_difference({"a": 1, "b": 1}, {"b": 2, "a": 2}) == ("b", 1, 2)


@pytest.fixture
def made(tmp_path) -> str:
    uri = str(tmp_path / "counts")
    config, inputs = {"num_batches": 20, "layers": (1, 2), "deep": {"seed": 0}}, {"checkpoint": "abc"}
    with storage.write_artifact(uri, kind="counts", config=config, inputs=inputs) as draft:
        (draft.path / "file").write_text("x")
    return uri


CONFIG = {"num_batches": 20, "layers": (1, 2), "deep": {"seed": 0}}


def asked(uri: str, changed: dict | None = None, *, kind: str = "counts", part: str = "", **inputs: str) -> Artifact:
    return Artifact(uri=uri, kind=kind, identity={**CONFIG, **(changed or {})}, inputs=inputs, part=part)


def test_an_absent_artifact_is_not_made(tmp_path):
    assert not asked(str(tmp_path / "counts")).is_made()


def test_an_artifact_made_in_the_same_way_is_made(made):
    assert asked(made, checkpoint="abc").is_made()
    assert asked(made, {"layers": [1, 2]}, checkpoint="abc").is_made()


@pytest.mark.parametrize(
    "changed, field, was, wanted",
    [
        ({"num_batches": 30}, "num_batches", "20", "30"),
        ({"layers": (1, 3)}, "layers[1]", "2", "3"),
        ({"deep": {"seed": 7}}, "deep.seed", "0", "7"),
        ({"new": True}, "new", "None", "True"),
    ],
)
def test_an_artifact_made_with_other_settings_is_refused_naming_field_and_both_values(
    made, changed, field, was, wanted
):
    with pytest.raises(RunError) as refused:
        asked(made, changed, checkpoint="abc").is_made()
    message = str(refused.value)
    assert f"{field} = {was}" in message and f"{field} = {wanted}" in message and made in message
    assert "--run-name" in message and "move" in message and "delete" not in message


def test_the_field_is_named_as_it_is_set(made):
    with pytest.raises(RunError, match="counting.deep.seed = 0, and now counting.deep.seed = 7"):
        asked(made, {"deep": {"seed": 7}}, part="counting").is_made()


def test_an_artifact_made_from_other_inputs_is_refused_naming_them(made):
    with pytest.raises(RunError, match=rf"{re.escape(made)} was made from a different checkpoint.*--run-name"):
        asked(made, checkpoint="abd").is_made()


def test_an_artifact_of_another_kind_is_refused(made):
    with pytest.raises(storage.StorageError, match="is of kind 'counts', not 'corpus'"):
        asked(made, kind="corpus").is_made()


def test_an_input_may_be_an_artifact_with_inputs_of_its_own(made, tmp_path):
    upstream = asked(made, checkpoint="abc")
    whole = Artifact(uri=str(tmp_path / "sum"), kind="sum", identity={}, inputs={"counts": upstream})
    with whole.write() as draft:
        (draft.path / "file").write_text("y")
    assert whole.manifest().inputs == {"counts": upstream.digest} == whole.pinned().inputs
    storage.delete(made)
    assert whole.made_from(counts=whole.manifest().inputs["counts"]).is_made()
    with pytest.raises(RunError, match=f"{made} is missing"):
        whole.is_made()


CONFIGS = [
    replace(RECIPES["smoke"](), run_name="smoke", storage=os.path.abspath("runs")),
    replace(RECIPES["laptop"](), run_name="w7", storage="/data/runs"),
    replace(RECIPES["wiki"](), run_name="wiki", storage="s3://bucket/runs"),
]


def made_of(config: Config) -> dict[str, Artifact]:
    """Artifacts of the stages, in the order in which they are made."""
    return {
        "world": artifacts.world(config),
        "corpus": artifacts.corpus(config),
        "checkpoint": artifacts.checkpoint(config, "memory"),
        "counts": artifacts.counts(config),
        "questions": artifacts.questions(config),
    }


def make_all(config: Config, *, without: str = "") -> None:
    """Make every artifact for this config, up to the one to leave out."""
    for name, artifact in made_of(config).items():
        if name == without:
            return
        with artifact.write() as draft:
            (draft.path / "file").write_text(artifact.uri)


def require(name: str, config: Config) -> storage.Manifest:
    return made_of(config)[name].require()


REQUIRE = ("corpus", "checkpoint", "counts", "questions")


@pytest.mark.parametrize("name", REQUIRE)
def test_an_existing_input_is_passed_on(tmp_path, name):
    config = parse("", ["smoke", "--storage", str(tmp_path)])
    make_all(config)
    place = {"checkpoint": "checkpoint-memory"}.get(name, name)
    assert require(name, config) == storage.read_manifest(str(tmp_path / "smoke" / place))


@pytest.mark.parametrize("arguments", [[], ["--writer.model", "it's mine", "--world.seed", "7", "--method", "lora"]])
@pytest.mark.parametrize(
    "name, file",
    [
        ("corpus", "prepare_corpus"),
        ("checkpoint", "pretrain"),
        ("counts", "count_accesses"),
        ("questions", "prepare_corpus"),
    ],
)
def test_a_missing_artifact_is_named_with_a_command_that_works(tmp_path, name, file, arguments):
    """The message names an existing pipeline, whose arguments parse to the same run, except for
    options that the pipeline does not use."""
    config = parse("", ["smoke", *arguments, "--storage", str(tmp_path)])
    make_all(config, without=name)
    with pytest.raises(RunError) as refused:
        require(name, config)
    error = str(refused.value)
    assert f"is missing; make it with: python pipelines/{file}.py smoke " in error
    _, pipeline, *parsed = shlex.split(error.split("make it with: ")[1])
    assert (Path(__file__).parents[1] / pipeline).is_file()
    named = parse("", parsed, stage=file)
    changed = {field.name for field in fields(config) if getattr(named, field.name) != getattr(config, field.name)}
    assert changed - {"arguments"} == {
        each for each in ("method", "writer") if arguments and not uses(file, f"--{each}")
    }


def test_the_command_for_the_dense_model_makes_the_dense_model(tmp_path):
    config = parse("", ["smoke", "--storage", str(tmp_path)])
    make_all(config)
    with pytest.raises(RunError, match="checkpoint-dense is missing") as refused:
        artifacts.checkpoint(config, "dense").require()
    parsed = parse("", shlex.split(str(refused.value).split("pretrain.py ")[1]))
    assert (parsed.architecture, parsed.storage) == ("dense", str(tmp_path))
    again = parse("", shlex.split(command("pretrain.py --architecture dense", parsed))[2:])
    assert again.architecture == "dense"


@pytest.mark.parametrize(
    "name, arguments, error",
    [
        ("corpus", ["--world.seed", "7"], "world.seed = 0, and now world.seed = 7"),
        ("corpus", ["--corpus.block-size", "32"], "corpus.block_size = 64, and now corpus.block_size = 32"),
        ("checkpoint", ["--world.seed", "7"], "world.seed = 0, and now world.seed = 7"),
        (
            "checkpoint",
            ["--pretraining.num-steps", "61"],
            "pretraining.num_steps = 60, and now pretraining.num_steps = 61",
        ),
        (
            "checkpoint",
            ["--pretraining.pool-optimizer", "adamw"],
            "pretraining.pool_optimizer = 'lazy_adam', and now pretraining.pool_optimizer = 'adamw'",
        ),
        ("checkpoint", ["--model.memory.top-k", "5"], "model.memory.top_k = 4, and now model.memory.top_k = 5"),
        ("counts", ["--pretraining.seed", "1"], "pretraining.seed = 0, and now pretraining.seed = 1"),
        ("counts", ["--counting.num-batches", "21"], "counting.num_batches = 20, and now counting.num_batches = 21"),
    ],
)
def test_an_input_made_with_another_config_is_not_passed_on(tmp_path, name, arguments, error):
    make_all(parse("", ["smoke", "--storage", str(tmp_path)]))
    with pytest.raises(RunError, match=re.escape(error)):
        require(name, parse("", ["smoke", "--storage", str(tmp_path), *arguments]))


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "--pretraining.micro-batch-blocks",
            "8",
            "--pretraining.checkpoint-every",
            "7",
            "--pretraining.log-every",
            "9",
        ],
        ["--pretraining.pool-split", "2", "--cluster.num-workers", "2", "--pretraining.micro-batch-blocks", "8"],
        ["--pretraining.zero-stage", "2", "--cluster.threads-per-worker", "2", "--tracking", "off"],
        ["--counting.batches-per-unit", "3"],
        ["--seed", "5", "--method", "lora", "--stream.num-facts", "3", "--evaluation.batch-size", "2"],
    ],
)
def test_execution_settings_do_not_change_an_artifact(tmp_path, arguments):
    make_all(parse("", ["smoke", "--storage", str(tmp_path)]))
    changed = parse("", ["smoke", "--storage", str(tmp_path), *arguments])
    for name in REQUIRE:
        require(name, changed)


def test_the_pools_optimizer_does_not_name_the_dense_model():
    lazy, dense = (parse("", ["smoke", "--pretraining.pool-optimizer", name]) for name in ("lazy_adam", "adamw"))
    assert artifacts.checkpoint(lazy, "dense").identity == artifacts.checkpoint(dense, "dense").identity
    assert artifacts.checkpoint(lazy, "memory").identity != artifacts.checkpoint(dense, "memory").identity


@pytest.mark.parametrize("name, above", [("corpus", "world"), ("checkpoint", "corpus"), ("counts", "checkpoint")])
def test_an_artifact_made_from_a_replaced_input_is_refused(tmp_path, name, above):
    config = parse("", ["smoke", "--storage", str(tmp_path)])
    make_all(config)
    place = tmp_path / "smoke" / {"checkpoint": "checkpoint-memory"}.get(above, above)
    manifest = storage.read_manifest(str(place))
    storage.delete(str(place))
    with storage.write_artifact(
        str(place), kind=manifest.kind, config=manifest.config, inputs=manifest.inputs
    ) as draft:
        (draft.path / "file").write_text("other bytes")
    with pytest.raises(RunError, match=f"was made from a different {above} than this run now has"):
        require(name, config)


def test_a_run_is_a_folder_of_its_storage():
    assert run_of(CONFIGS[1]).uri == "/data/runs/w7"
    assert run_of(CONFIGS[2]).uri == "s3://bucket/runs/wiki"


def test_a_relative_storage_is_refused():
    """Workers run in other folders, so the command line makes the path absolute first."""
    with pytest.raises(storage.StorageError, match="--storage runs: must be absolute"):
        run_of(replace(CONFIGS[0], storage="runs"))


def test_a_run_needs_a_name():
    with pytest.raises(RunError, match="--run-name is empty"):
        run_of(replace(CONFIGS[0], run_name=""))


def test_the_tracking_address():
    assert tracking_uri(CONFIGS[1]) == "sqlite:////data/runs/mlflow.db"
    assert tracking_uri(replace(CONFIGS[1], tracking="off")) == ""
    assert tracking_uri(replace(CONFIGS[2], tracking="http://h:5000")) == "http://h:5000"
    with pytest.raises(RunError, match="--storage is s3://bucket/runs.*--tracking"):
        tracking_uri(CONFIGS[2])


def test_a_run_with_a_base_run_shares_all_but_its_questions_and_trials(tmp_path):
    base = parse("", ["smoke", "--storage", str(tmp_path)])
    make_all(base, without="questions")
    config = parse("", ["smoke", "--storage", str(tmp_path), "--run-name", "other", "--base-run", "smoke"])
    for name in ("corpus", "checkpoint", "counts"):
        assert require(name, config) == require(name, base)
    with pytest.raises(RunError, match=f"{tmp_path}/other/questions is missing"):
        artifacts.questions(config).require()
    run = run_of(config)
    assert (run.trials, run.base_trials) == (f"{tmp_path}/other/trials", f"{tmp_path}/smoke/trials")
    assert run_of(base).trials == run_of(base).base_trials


def test_the_mixture_names_the_questions_only_if_overlaps_are_removed():
    wiki = replace(RECIPES["wiki"](), run_name="wiki", storage="/runs")
    other = replace(wiki, corpus=replace(wiki.corpus, mixture=replace(wiki.corpus.mixture, num_questions=7)))
    assert wiki.questions.remove_overlap and artifacts.questions(wiki).identity != artifacts.questions(other).identity
    kept = [replace(each, questions=replace(each.questions, remove_overlap=False)) for each in (wiki, other)]
    assert artifacts.questions(kept[0]).identity == artifacts.questions(kept[1]).identity
