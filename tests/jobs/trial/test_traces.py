"""Files of a traced finetune and of the analysis of slots; neither changes a result."""

import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from memlm import storage
from memlm.jobs import analyze_slots, finetune
from tests.jobs.running import refused, smoke

pytestmark = pytest.mark.ray


@pytest.fixture
def copied(swept, tmp_path) -> Path:
    kept = shutil.ignore_patterns("trials", "ray", "learned", "scores")
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=kept)
    return tmp_path


def test_a_trace_is_written_next_to_the_patch_and_does_not_change_it(copied, cluster, capsys):
    plain = finetune.run(smoke(copied, "--tracking", "off"))
    digest = storage.read_manifest(plain).digest
    config = smoke(copied, "--trace", "True")
    assert finetune.run(config) == plain  # the trace is not part of the key
    assert storage.read_manifest(plain).digest == digest
    trace = storage.open_artifact(f"{plain}-trace", kind="stream_trace")
    assert {path.name for path in trace.iterdir()} == {
        "manifest.json",
        "stream_metrics.json",
        "stream_metrics.png",
        "tokens.html",
    }
    metrics = json.loads((trace / "stream_metrics.json").read_text())
    assert metrics["num_facts"] == 6 and metrics["num_steps"] == 12
    scores = json.loads((Path(plain) / "scores.json").read_text())
    learned = scores["end"]["new_facts"]["items"]
    assert metrics["exact_match"]["end"]["mean"] == pytest.approx(sum(learned) / len(learned))
    assert len(re.findall("<section>", (trace / "tokens.html").read_text())) == 6
    said = capsys.readouterr().out
    assert "backward transfer" in said and "stream_metrics.json" in said
    with sqlite3.connect(copied / "mlflow.db") as database:
        logged = dict(database.execute("select key, count(*) from metrics where key like 'stream/%' group by key"))
    assert logged["stream/exact_match"] == len(metrics["curve"]) > 5
    assert {"stream/known_facts", "stream/backward_transfer/exact_match", "stream/shared_slots"} <= logged.keys()
    assert finetune.run(config) == plain
    assert f"reusing {plain}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_method_that_selects_no_slots_has_a_trace_without_a_page(copied, cluster):
    learned = finetune.run(smoke(copied, "--method", "full", "--trace", "True", "--tracking", "off"))
    trace = storage.open_artifact(f"{learned}-trace")
    assert not (trace / "tokens.html").exists()
    assert json.loads((trace / "stream_metrics.json").read_text())["shared_slots"] is None


def test_the_slots_of_facts_are_written_into_the_run(copied, cluster, capsys):
    few = ["--analysis.num-facts", "2", "--analysis.slot-counts", "50", "5", "--analysis.num-steps", "2"]
    few += ["--analysis.num-seeds", "2", "--analysis.num-read-facts", "3", "--analysis.read-slot-counts", "20", "50"]
    before = storage.read_manifest(str(copied / "smoke" / "checkpoint-memory")).digest
    output = analyze_slots.run(smoke(copied, *few, "--method.num-trainable-slots", "50", "--tracking", "off"))
    assert output == str(copied / "smoke" / "slots.json")
    report = json.loads(Path(output).read_text())
    assert len(report["facts"]) == report["summary"]["num_facts"] == 4
    assert [fact["seed"] for fact in report["facts"]] == [0, 0, 1, 1]
    assert report["summary"]["num_steps"] == 2
    assert report["method"]["optimizer"]["learning_rate"] > 0
    for fact in report["facts"]:
        assert fact["num_core_answering"] <= fact["num_core"] <= fact["num_shared"] <= fact["num_accessed"]
        assert fact["num_trainable"] == 50 and fact["learned_with"] in (None, 0, 5, 50)
    assert list(report["summary"]["learned_within"]) == ["5", "50"]
    page = (copied / "smoke" / "tokens.html").read_text()
    assert all(fact["id"] in page for fact in report["facts"] if fact["seed"] == 0)
    reads = json.loads((copied / "smoke" / "token_reads.json").read_text())
    assert 3 <= reads["num_facts"] <= 6
    for kind in ("statement", "question"):
        few, more = (reads["reads"][kind][f"t={count}"]["all"]["share"] for count in (20, 50))
        assert 0 < few < more < 1
        assert {"entity", "value", "template", "stop", "end of text"} <= reads["reads"][kind]["t=20"]["by_part"].keys()
    assert (copied / "smoke" / "token_reads.png").read_bytes().startswith(b"\x89PNG")
    storage.open_artifact(str(copied / "smoke" / "checkpoint-memory"))
    assert storage.read_manifest(str(copied / "smoke" / "checkpoint-memory")).digest == before
    assert "core slots" in capsys.readouterr().out


def test_impossible_analyses_are_refused_before_a_cluster_starts(copied, capfd):
    line = refused(capfd, analyze_slots.run, smoke(copied, "--method", "lora"))
    assert "--method is lora, which selects no slots" in line
    line = refused(capfd, analyze_slots.run, smoke(copied, "--analysis.slot-counts", "25", "2000"))
    assert "analysis.slot_counts is (25, 2000), and model.memory has 1024 slots" in line
    line = refused(capfd, analyze_slots.run, smoke(copied, "--analysis.read-slot-counts", "2000"))
    assert "analysis.read_slot_counts is (2000,), and model.memory has 1024 slots" in line
