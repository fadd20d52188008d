"""Files in a run's folder that were changed by hand: a sweep reports them on one line, and loses
nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from memlm import storage
from memlm.jobs.pareto_sweep import _Stages
from memlm.jobs.sweep.report import _draw_joint
from memlm.recipes import RECIPES
from memlm.run import run_of

RECORDED = json.loads((Path(__file__).parents[3] / "docs" / "recorded" / "laptop-frontier.json").read_text())


def config_at(folder: Path):
    config = RECIPES["smoke"]()
    sweep = replace(config.sweep, compare_with=("other",))
    return replace(config, storage=str(folder), run_name="mine", tracking="off", sweep=sweep)


@pytest.mark.parametrize("written", [{"methods": 3}, {}, [], {**RECORDED, "digest": "0"}])
def test_an_undrawable_frontier_of_another_run_costs_only_the_joint_picture(tmp_path, capsys, written):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "frontier.json").write_text(json.dumps(written))
    assert not _draw_joint(config_at(tmp_path), RECORDED, tmp_path / "joint.png")
    assert "warning: no joint picture: " in capsys.readouterr().out


def test_another_runs_frontier_is_drawn_next_to_this_one(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "frontier.json").write_text(json.dumps(RECORDED))
    assert _draw_joint(config_at(tmp_path), RECORDED, tmp_path / "joint.png") and (tmp_path / "joint.png").is_file()


@pytest.mark.parametrize("written", ["{}", '{"pretrain": {"seconds": 3.5, "command": "a"}}'])
def test_durations_of_stages_are_read(tmp_path, written):
    config = config_at(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stages.json").write_text(written)
    assert _Stages(run_of(config), config).read() == json.loads(written)


@pytest.mark.parametrize(
    "written", ['{"pretrain": 3}', '{"pretrain": {"seconds": "x", "command": ""}}', '{"pretrain": {}}']
)
def test_changed_durations_are_an_error_that_names_the_file(tmp_path, written):
    config = config_at(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stages.json").write_text(written)
    with pytest.raises(storage.DamagedArtifact, match=r"mine/stages.json.*how long each stage took.*Move it away"):
        _Stages(run_of(config), config).read()
