"""Last lines of a finetune: how to use the patch, or why nothing was learned."""

import shutil
from pathlib import Path

import pytest

from memlm.artifact import Artifact
from memlm.jobs import finetune
from memlm.kinds import PATCH_FILE, PATCH_KIND
from memlm.results.scores import LEARNING_SET, SetScore, TrialResult
from tests.jobs.running import said_with, smoke


def result_of(start: tuple[float, ...], end: tuple[float, ...]) -> TrialResult:
    scores = [SetScore(task="questions@1", measure="exact_match", chance=0.0, items=items) for items in (start, end)]
    sides = [{LEARNING_SET: score} for score in scores]
    return TrialResult(key="k", method="m", hyperparameters={}, seed=0, start=sides[0], end=sides[1], extra={})


def patch_at(uri: str) -> Artifact:
    patch = Artifact(uri=uri, kind=PATCH_KIND, identity={})
    with patch.write() as draft:
        (draft.path / PATCH_FILE).write_bytes(b"rows")
    return patch


def test_the_patch_is_shown_with_the_command_that_applies_it(tmp_path, capsys):
    finetune._report_outcome(
        smoke(tmp_path), patch_at(f"{tmp_path}/smoke/learned/k"), result_of((0.0, 0.0), (0.0, 1.0))
    )
    out = capsys.readouterr().out
    assert f"memlm apply {tmp_path}/smoke/checkpoint-memory {tmp_path}/smoke/learned/k OUTPUT" in out
    assert "NOTHING" not in out


def test_a_method_that_changes_no_weight_has_no_patch_to_apply(tmp_path, capsys):
    config = smoke(tmp_path, "--method", "in_context")
    finetune._report_outcome(config, patch_at(f"{tmp_path}/smoke/learned/k"), result_of((0.0, 0.0), (0.0, 1.0)))
    out = capsys.readouterr().out
    assert "method in_context changes no weight" in out and "memlm apply" not in out and "NOTHING" not in out


@pytest.mark.ray
def test_a_run_that_learned_nothing_says_so_and_why(swept, tmp_path, cluster, capfd):
    left_out = shutil.ignore_patterns("trials", "ray", "learned", "scores")
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=left_out)
    config = smoke(
        tmp_path, "--tracking", "off", "--method.optimizer.learning-rate", "1e-6", "--stream.num-facts", "500"
    )
    for _ in range(2):  # the second time, the patch is reused
        uri = finetune.run(config)
        out = said_with(capfd, "docs/your-own-facts.md")
        assert "NOTHING WAS LEARNED: 0 of 100 new facts are answered correctly, and 0 were before" in out
        assert "why: the model hardly moved" in out and "learning_rate (1e-06)" in out
        assert uri in out and "memlm apply" not in out
    assert Path(finetune.__file__).parents[2].joinpath(finetune.GUIDE).is_file()
