"""The job with a real endpoint on this machine, and with a local model."""

import json
import os
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from memlm import storage
from memlm.cli import parse
from memlm.config import Config
from memlm.data.questions.facts import read_facts
from memlm.data.questions.files import write_nq_open
from memlm.data.questions.questions import read_questions
from memlm.data.questions.records import Question
from memlm.jobs import write_statements
from memlm.jobs.on_ray import alone
from memlm.run import run_of
from memlm.storage import StorageError
from tests.jobs.running import refused
from tests.support.serving import Server, says, serving

NUM_FACTS = 12


class Careful:
    """Writer that follows the prompts, except for facts that it is configured not to know."""

    def __init__(self, *ignorant_of: str) -> None:
        self.ignorant_of, self.lock, self.asked = ignorant_of, threading.Lock(), []

    def __call__(self, handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
        prompt = content["messages"][0]["content"]
        name = re.search(r"Person\d+", prompt)[0]
        with self.lock:
            self.asked.append(name)
        if name in self.ignorant_of:
            says("I do not know.")(handler, content)
        elif "Statement:" in prompt:
            says(f"{name} was born in Town{name[6:]}.")(handler, content)
        else:
            says(f"1. Town{name[6:]} is where {name} was born.\n2. It was in Town{name[6:]} that {name} was born.")(
                handler, content
            )


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    asked = [
        Question(id=f"q{i}", question=f"Where was Person{i:02} born?", answers=(f"Town{i:02}", "elsewhere"))
        for i in range(NUM_FACTS)
    ]
    write_nq_open(str(path), asked)
    return path


def config_of(tmp_path: Path, questions: Path, server: Server, *arguments: str) -> Config:
    config = parse(
        "",
        [
            "smoke",
            *("--storage", str(tmp_path / "runs")),
            *("--questions.facts.path", str(questions), "--questions.facts.layout", "nq_open"),
            *("--writer.model", "m", "--writer.endpoint.base-url", server.url, "--writer.items-per-unit", "3"),
            *("--writer.endpoint.num-attempts", "1", "--wordings.num-wordings", "3"),
            *arguments,
        ],
    )
    return replace(config, world=None)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_facts_are_stated_once_and_the_stream_reads_the_file(tmp_path: Path, questions: Path, capfd):
    careful = Careful("Person07")
    with serving(careful) as server:
        config = config_of(tmp_path, questions, server, "--wordings.max-failed-share", "0.1")
        uri = write_statements.run(config)
        num_asked = len(careful.asked)
        assert write_statements.run(config) == uri and len(careful.asked) == num_asked
    assert num_asked == 2 * (NUM_FACTS - 1) + config.wordings.max_rounds
    folder = storage.open_artifact(uri, kind="statements")
    facts = read_facts(str(folder / "statements.jsonl"), read_questions(str(folder / "questions.jsonl"), "nq_open"))
    assert [fact.id for fact in facts] == [f"q{i}" for i in range(NUM_FACTS) if i != 7]
    assert facts[0].statements[0] == "Person00 was born in Town00." and {len(fact.statements) for fact in facts} == {3}
    assert json.loads((folder / "short.jsonl").read_text()) == {
        "id": "q7",
        "num_statements": 0,
        "rejected": {"does not contain the answer": 3},
    }
    manifest = storage.read_manifest(uri)
    assert manifest.config["writer"]["model"] == "m" and len(manifest.config["prompts"]) == 64
    assert not storage.list_names(f"{uri}-partial")
    out = capfd.readouterr().out
    assert "q7: only 0" in out and f"--questions.facts.statements {uri}/statements.jsonl" in out


def test_a_second_command_asks_nothing_while_the_first_runs(tmp_path: Path, questions: Path, monkeypatch):
    monkeypatch.setattr(alone, "LEASE_SECONDS", 0.5)
    careful = Careful()
    with serving(careful) as server:
        config = config_of(tmp_path, questions, server)
        with storage.lease(run_of(config).statements_lease, owner="the other"):
            with pytest.raises(storage.LeaseHeld, match="held by the other"):
                write_statements.run(config)
    assert not careful.asked and os.listdir(tmp_path / "runs" / "smoke") == ["leases"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_spent_budget_keeps_finished_work(tmp_path: Path, questions: Path, capfd):
    careful = Careful("Person02", "Person07")
    with serving(careful) as server:
        config = config_of(tmp_path, questions, server, "--cluster.num-trials-at-once", "1")
        line = refused(
            capfd,
            write_statements.run,
            config_of(
                tmp_path,
                questions,
                server,
                *("--writer.endpoint.max-requests", "14", "--cluster.num-trials-at-once", "1"),
            ),
        )
        assert "the budget is spent: writer.endpoint.max_requests is 14" in line and len(careful.asked) == 14
        finished = set(storage.list_names(f"{tmp_path}/runs/smoke/statements-partial"))
        assert finished == {"unit_0000000_0000003", "unit_0000003_0000006"}
        before = len(careful.asked)
        line = refused(capfd, write_statements.run, config)
        assert "2 of 12 facts, the first 'q2'" in line and "wordings.max_failed_share (0.05)" in line
        assert not {f"Person0{i}" for i in range(6)} & set(careful.asked[before:])
        before = len(careful.asked)
        write_statements.run(
            config_of(
                tmp_path, questions, server, "--wordings.max-failed-share", "0.2", "--cluster.num-trials-at-once", "1"
            )
        )
        assert len(careful.asked) == before
        with pytest.raises((ValueError, StorageError), match="temperature"):
            write_statements.run(config_of(tmp_path, questions, server, "--writer.temperature", "0.1"))
