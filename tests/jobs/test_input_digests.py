"""Workers read the artifacts that the driver chose, and refuse one that was replaced meanwhile."""

import pytest

from memlm import artifacts
from memlm.artifacts import trial_inputs
from memlm.config import Config
from memlm.jobs.counting_units import CountUnits
from memlm.jobs.evaluate import _score
from memlm.jobs.trial.fact_slots import analyze
from memlm.jobs.trial.learning import learn
from memlm.storage import StorageError
from tests.jobs.running import smoke

pytestmark = pytest.mark.ray
OTHER = "0" * 64
"""Digest of the artifact when the driver read it."""


def _count(config: Config, inputs: dict[str, str]) -> None:
    load_error = CountUnits(config, inputs, "session").load_error
    if load_error:
        raise load_error


WORKERS = {
    "finetune": lambda config, inputs: learn(config, inputs),
    "analyze_slots": lambda config, inputs: analyze(config, config.method, inputs),
    "evaluate": lambda config, inputs: _score(
        config, artifacts.checkpoint(config, "memory").uri, inputs["checkpoint"], inputs
    ),
    "count_accesses": _count,
}


@pytest.mark.parametrize(
    ("worker", "changed"),
    [
        *((name, "checkpoint") for name in WORKERS),
        *((name, "corpus") for name in WORKERS),
        *((name, "questions") for name in WORKERS if name != "count_accesses"),
        *((name, "counts") for name in ("finetune", "analyze_slots")),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_a_worker_does_not_read_a_replaced_input(swept, tmp_path, worker, changed):
    config = smoke(swept.storage, "--tracking", "off")
    inputs = {**trial_inputs(config, "memory"), changed: OTHER}
    with pytest.raises(StorageError, match=f"was replaced: its digest is .*, but {OTHER[:16]} was expected"):
        WORKERS[worker](config, inputs)
