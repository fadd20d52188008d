"""All pipelines on S3 that fails now and then end with status 0 and with the results of a local
run."""

import pytest

from tests.chaos.frame import measure
from tests.chaos.s3_whole import ROWS, commands
from tests.jobs.running import ROOT


def test_every_pipeline_is_listed() -> None:
    named = {name for name, *_ in commands("", "", inputs="", endpoint="")}
    assert named == {path.name for path in (ROOT / "pipelines").glob("*.py")}


@pytest.mark.slow
@pytest.mark.xdist_group("s3")
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_each_pipeline_gives_the_local_runs_results() -> None:
    (row,) = ROWS
    record = measure(row, seed=0, small=False)
    assert record.ok, record
