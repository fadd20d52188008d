"""Pretraining that overflows ends with one line, without a restart."""

import json
import re
from pathlib import Path

import pytest

from memlm.jobs import prepare_corpus, pretrain
from tests.jobs.running import refused, smoke

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RATE = "1e30"
DIVERGING = (
    *("--tracking", "off"),
    *("--pretraining.num-steps", "40"),
    *("--pretraining.checkpoint-every", "2"),
    *("--pretraining.warmup-steps", "0"),
    *("--pretraining.learning-rate", RATE),
    *("--pretraining.value-learning-rate", RATE),
)


def test_divergence_names_the_rates_is_not_retried_and_saves_no_weights(cluster, tmp_path: Path, capfd):
    config = smoke(tmp_path, *DIVERGING)
    prepare_corpus.run(config)
    line = refused(capfd, pretrain.run, config)
    assert re.fullmatch(
        r"error: pretraining the memory model diverged: .* (not finite|is (nan|inf)) .*step \d+; "
        r"lower pretraining.learning_rate \(1e\+30\) or pretraining.value_learning_rate \(1e\+30\); "
        r"no checkpoint is made of it, and the states saved before are kept in \S+",
        line,
    )
    (run,) = tmp_path.iterdir()
    assert not list(run.glob("checkpoint-*"))
    assert not list(run.glob("training-memory/step_*/*/*.safetensors"))
    (start,) = run.glob("training-memory/starts/*.json")
    assert json.loads(start.read_text())["last_step"] < 40
