"""A sweep over several checkpoints, run."""

import json
import re

import pytest

from memlm.jobs.sweep.planned_trials import plan_trials
from tests.jobs.running import artifacts_in, smoke
from tests.jobs.sweep.results import sweep
from tune_spaces import load_spaces

pytestmark = pytest.mark.ray
FEW = ("--tracking", "off", "--sweep.methods", "sparse_memory", "full")


def frontier_in(folder) -> dict:
    return json.loads((folder / "frontier.json").read_text())


def test_a_run_made_alone_is_one_of_the_checkpoints(swept, cluster, tmp_path, capsys):
    """World and pretraining of the recipe have seed 0. Nothing is made, and no trial is run."""
    swept.copy_to(tmp_path / "x-checkpoint-0", without=("frontier*", "report*"))
    made = artifacts_in(tmp_path)
    config = smoke(tmp_path, *FEW, "--run-name", "x", "--sweep.checkpoints", "0")
    for _ in range(2):
        sweep(config)
        out = capsys.readouterr().out
        assert (
            "8 trials, 8 of them already finished" in out and f"checkpoint 0, 1 of 1: {tmp_path}/x-checkpoint-0" in out
        )
    assert artifacts_in(tmp_path) == made
    own, joint = frontier_in(tmp_path / "x-checkpoint-0"), frontier_in(tmp_path / "x")
    assert [point["learning_ci"] for point in own["points"]] == [point["learning_ci"] for point in joint["points"]]
    assert {point["method"] for point in joint["points"]} == {"sparse_memory", "full"}
    assert own["provenance"]["checkpoints"][""]["inputs"] == joint["provenance"]["checkpoints"]["0"]["inputs"]
    assert "pretrain, checkpoint 0" in (tmp_path / "x" / "report.html").read_text()


@pytest.mark.slow
def test_a_checkpoint_that_is_missing_is_made_with_its_own_world(swept, cluster, tmp_path, capsys):
    swept.copy_to(tmp_path / "x-checkpoint-0", without=("frontier*", "report*", "trials"))
    options = (*FEW, "--run-name", "x", "--sweep.checkpoints", "0", "5", "--sweep.tuning-seeds", "8")
    sweep(smoke(tmp_path, *options))
    out = capsys.readouterr().out
    assert len(re.findall(r"12 trials \(4 to choose settings\), 0 of them already finished", out)) == 2
    assert "sparse_memory lr2 tuning seed 8: learned" in out and "world: generating seed 5" in out
    joint = frontier_in(tmp_path / "x")
    assert joint["chosen_on"] == "tuning" and set(joint["provenance"]["checkpoints"]) == {"0", "5"}
    assert all(point["seeds"] == [0, 1] for point in joint["points"])
    digests = [each["inputs"]["dense"]["corpus"] for each in joint["provenance"]["checkpoints"].values()]
    assert len(set(digests)) == 2
    alone = smoke(
        tmp_path,
        *(
            *FEW,
            "--run-name",
            "x-checkpoint-5",
            "--world.seed",
            "5",
            "--pretraining.seed",
            "5",
            "--sweep.tuning-seeds",
            "8",
        ),
    )
    planned, _ = plan_trials(alone, load_spaces(alone.sweep.methods, alone.sweep.scale))
    assert {plan.key for plan in planned} == {path.stem for path in (tmp_path / "x-checkpoint-5" / "trials").glob("*")}
    (tmp_path / "x-checkpoint-5" / "trials" / f"{planned[-1].key}.json").unlink()
    before = joint["points"]
    sweep(smoke(tmp_path, *options))
    assert "12 trials (4 to choose settings), 11 of them already finished" in capsys.readouterr().out
    for point, earlier in zip(frontier_in(tmp_path / "x")["points"], before, strict=True):
        assert (point["learning"], point["sets"]) == (earlier["learning"], earlier["sets"])
