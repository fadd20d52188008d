"""The plan of the smoke recipe against what a sweep of it left behind: each within a quarter."""

import pytest

from memlm.preflight.cost.machines import MACHINES
from memlm.preflight.cost.stages import Assumptions, make_plan
from tests.jobs.running import smoke
from tune_spaces import load_spaces

pytestmark = pytest.mark.ray
QUARTER = 0.25


@pytest.fixture
def planned(swept):
    config = smoke(swept.storage)
    spaces = load_spaces(config.sweep.methods, config.sweep.scale)
    trials = {setting: len(config.sweep.seeds) for space in spaces for setting in space.settings()}
    return make_plan(config, MACHINES["cpu"], 1, Assumptions(), trials)


def test_the_planned_number_of_trials_is_that_of_the_ledger(planned, swept):
    assert planned.sweep_lines()["trials"] == len(swept.ledger())


@pytest.mark.parametrize(
    "line, artifact",
    [("checkpoint, memory", "checkpoint-memory"), ("checkpoint, dense", "checkpoint-dense"), ("counts", "counts")],
)
def test_artifacts_are_as_large_as_planned(planned, swept, line, artifact):
    (weights,) = (swept.run / artifact).glob("*.safetensors")
    assert planned.storage_lines()[line] == pytest.approx(weights.stat().st_size, rel=QUARTER)
