import getpass
import json
import logging
import os
import pickle
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memlm import tracking
from memlm.tracking import DataSet, Tracker, TrackingError


def test_a_run_with_params_tags_metrics_and_a_file(uri: str, query: Callable, tmp_path: Path) -> None:
    (tmp_path / "frontier.json").write_text("{}")
    with Tracker(uri, "all").run("k", name="sweep", params={"lr": 0.1, "slots": 500}, tags={"method": "lora"}) as run:
        run.log_metrics({"train/loss": 2.5, "train/tokens": 10}, step=3)
        run.log_metrics({"train/loss": 1.5}, step=4)
        run.set_tags({"pareto": "true"})
        run.log_file(tmp_path / "frontier.json", "frontier")
    assert query("SELECT name, status FROM runs WHERE run_uuid = ?", run.run_id) == [("sweep", "FINISHED")]
    assert dict(query("SELECT key, value FROM params WHERE run_uuid = ?", run.run_id)) == {"lr": "0.1", "slots": "500"}
    points = query("SELECT key, step, value FROM metrics WHERE run_uuid = ?", run.run_id)
    assert sorted(points) == [("train/loss", 3, 2.5), ("train/loss", 4, 1.5), ("train/tokens", 3, 10.0)]
    tags = dict(query("SELECT key, value FROM tags WHERE run_uuid = ?", run.run_id))
    assert tags.items() >= {"method": "lora", "pareto": "true", "memlm.key": "k"}.items()
    artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlflow_artifacts"
    assert [path.name for path in artifacts.rglob("frontier.json")] == ["frontier.json"]


def test_the_same_key_is_the_same_run_continued(uri: str, query: Callable) -> None:
    first = Tracker(uri, "resume").run("trial/7", name="a", params={"seed": 7})
    with pytest.raises(RuntimeError), first:
        raise RuntimeError("killed")
    assert query("SELECT status FROM runs WHERE run_uuid = ?", first.run_id) == [("FAILED",)]
    again = Tracker(uri, "resume").run("trial/7", name="a", params={"seed": 7, "late": 1}, tags={"try": "2"})
    assert again.run_id == first.run_id
    assert query("SELECT status FROM runs WHERE run_uuid = ?", first.run_id) == [("RUNNING",)]
    assert dict(query("SELECT key, value FROM params WHERE run_uuid = ?", first.run_id)) == {"seed": "7", "late": "1"}
    assert Tracker(uri, "resume").run("trial/8", name="a").run_id != first.run_id
    assert Tracker(uri, "other").run("trial/7", name="a").run_id != first.run_id


def test_the_same_key_with_other_params_is_refused(uri: str) -> None:
    tracker = Tracker(uri, "changed")
    tracker.run("k", name="a", params={"lr": 0.1})
    with pytest.raises(TrackingError, match=r"run a: began with other params \(lr\)\. Give this run another key"):
        tracker.run("k", name="a", params={"lr": 0.2})


def test_children_name_their_parent(uri: str, query: Callable) -> None:
    tracker = Tracker(uri, "nested")
    with tracker.run("sweep", name="sweep") as parent, tracker.run("trial", name="trial", parent=parent) as child:
        pass
    sql = "SELECT value FROM tags WHERE key = 'mlflow.parentRunId' AND run_uuid = ?"
    assert query(sql, child.run_id) == [(parent.run_id,)]


def test_interrupted_runs_are_killed(uri: str, query: Callable) -> None:
    run = Tracker(uri, "killed").run("k", name="a")
    with pytest.raises(KeyboardInterrupt), run:
        raise KeyboardInterrupt
    assert query("SELECT status FROM runs WHERE run_uuid = ?", run.run_id) == [("KILLED",)]


def test_values_that_are_not_finite_are_named_and_left_out(
    uri: str, query: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    run = Tracker(uri, "finite").run("k", name="a")
    with caplog.at_level(logging.WARNING, "memlm.tracking"):
        run.log_metrics({"loss": float("nan"), "norm": float("inf"), "good": 1.0}, step=2)
    assert query("SELECT key FROM metrics WHERE run_uuid = ?", run.run_id) == [("good",)]
    assert [("loss" in m, "norm" in m) for m in caplog.messages] == [(True, False), (False, True)]


def test_more_params_than_one_call_may_carry(uri: str, query: Callable) -> None:
    run = Tracker(uri, "many").run("k", name="a", params={f"p{n}": n for n in range(230)})
    assert query("SELECT COUNT(*) FROM params WHERE run_uuid = ?", run.run_id) == [(230,)]


def test_a_refusal_by_mlflow_is_one_clear_error(uri: str) -> None:
    run = Tracker(uri, "refused").run("k", name="a")
    with pytest.raises(TrackingError, match="MLflow: .*loss!"):
        run.log_metrics({"loss!": 1.0})
    with pytest.raises(TrackingError, match="does not exist"):
        run.log_file("/nowhere/report.html")
    with pytest.raises(TrackingError, match="must not contain a quote"):
        Tracker(uri, "refused").run("it's", name="a")


def test_two_jobs_may_find_no_experiment_at_the_same_moment(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    Tracker(uri, "raced")
    find = MlflowClient.get_experiment_by_name
    looks = []

    def look(self: MlflowClient, name: str) -> object:
        looks.append(name)
        return None if len(looks) == 1 else find(self, name)  # the second job looked before the first had made it

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look)
    assert Tracker(uri, "raced")._experiment_id == find(MlflowClient(uri), "raced").experiment_id


def log_all(tracker: Tracker, run: tracking.Run, file: Path) -> None:
    """Every call that a job makes."""
    with run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.set_tags({"a": "b"})
        run.log_file(file)
        run.log_json({"a": 1}, "config.json")
        run.log_inputs([DataSet(name="facts", digest="d", uri="/data/facts", context="training")])
        with tracker.run("child", name="child", parent=run, params={"seed": 1}) as child:
            child.log_metrics({"loss": 2.0})


@pytest.mark.parametrize(
    "what",
    [
        "run",
        *(pytest.param(what, marks=pytest.mark.slow) for what in ("experiment", "before it is opened", "for good")),
    ],
)
def test_a_deletion_in_mlflow_costs_the_log_and_not_the_work(
    uri: str, query: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    from mlflow import MlflowClient
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    (tmp_path / "report.html").write_text("a report")
    tracker, client = Tracker(uri, f"deleted {what}"), MlflowClient(uri)
    run = tracker.run("k", name="a")
    if what == "run":
        client.delete_run(run.run_id)
    else:
        client.delete_experiment(tracker._experiment_id)
    if what == "before it is opened":
        tracker = Tracker(uri, f"deleted {what}")
        run = tracker.run("k", name="a")
        assert not run.run_id
    if what == "for good":
        SqlAlchemyStore(uri, str(tmp_path))._hard_delete_experiment(tracker._experiment_id)
    with caplog.at_level(logging.WARNING, "memlm.tracking"):
        for _ in range(2):
            log_all(tracker, run, tmp_path / "report.html")
    (said,) = caplog.messages
    assert "was deleted in MLflow; the work continues" in said and said.endswith("run the same command again")
    if what == "for good":
        assert "restore" not in said
        return
    # Follow the advice.
    message = re.search(r"To log again: MLFLOW_TRACKING_URI=(\S+) (mlflow .*), and then", said)
    assert message is not None and message[1] == uri
    subprocess.run(
        [str(Path(sys.executable).parent / "mlflow"), *message[2].split()[1:]],
        env={**os.environ, "MLFLOW_TRACKING_URI": message[1]},
        check=True,
    )
    tracker = Tracker(uri, f"deleted {what}")
    log_all(tracker, again := tracker.run("k", name="a"), tmp_path / "report.html")
    assert query("SELECT value FROM metrics WHERE run_uuid = ?", again.run_id) == [(1.0,)]


def test_a_server_that_goes_away_costs_a_forgiving_tracker_only_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Uses a sqlite file that was moved away: MLflow reports it like an error of a server."""
    uri = f"sqlite:///{tmp_path}/deep/mlflow.db"
    strict, forgiving = Tracker(uri, "strict").run("k", name="a"), Tracker(uri, "x", forgiving=True)
    run = forgiving.run("k", name="a")
    with sqlite3.connect(tmp_path / "deep" / "mlflow.db") as database:
        database.execute("ALTER TABLE metrics RENAME TO hidden")
    with pytest.raises(TrackingError):
        strict.log_metrics({"loss": 1.0})
    with caplog.at_level(logging.WARNING, "memlm.tracking"):
        for step in range(3):
            run.log_metrics({"loss": 1.0}, step=step)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("memlm.tracking")]
    assert said.endswith("The work continues; the next attempt to log is in 300 s")
    assert len(said.splitlines()) == 1 and "no such table: metrics" in said and "SELECT" not in said
    assert "Traceback" not in capfd.readouterr().err
    with sqlite3.connect(tmp_path / "deep" / "mlflow.db") as database:
        database.execute("ALTER TABLE hidden RENAME TO metrics")
    forgiving._place.silent_until = 0.0  # as when the pause is over
    run.log_metrics({"loss": 2.0}, step=4)
    with sqlite3.connect(tmp_path / "deep" / "mlflow.db") as database:
        assert database.execute("SELECT step, value FROM metrics").fetchall() == [(4, 2.0)]
    with pytest.raises(TrackingError, match="MLflow: .*loss!"):  # our own error is not reported as the server's
        run.log_metrics({"loss!": 1.0})


def test_a_probe_whose_experiment_was_deleted_names_the_remedy(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking.probe(uri)
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name(tracking.PROBE_EXPERIMENT).experiment_id)
    with pytest.raises(TrackingError, match="mlflow experiments restore"):
        tracking.probe(uri)


def test_mlflow_shows_the_provenance_of_a_run(uri: str, query: Callable) -> None:
    sets = [
        DataSet(name="corpus", digest="c" * 64, uri="s3://bucket/corpus", context="training"),
        DataSet(name="known_facts", digest="q", uri="/runs/questions", context="evaluation"),
    ]
    run = Tracker(uri, "provenance").run("k", name="a", tags={"stage": "finetune"})
    run.log_inputs(sets)
    run.log_json({"seed": 3, "tracking": "https://me:secret@host/x"}, "config.json")
    tags = dict(query("SELECT key, value FROM tags WHERE run_uuid = ?", run.run_id))
    assert tags["mlflow.user"] == getpass.getuser() and tags["mlflow.source.name"] == "memlm"
    sha = tracking.git_sha()
    assert tags["git_sha"] == sha and tags["mlflow.source.git.commit"] == sha.removesuffix("-dirty")
    from mlflow import MlflowClient

    logged = {each.dataset.name: each for each in MlflowClient(uri).get_run(run.run_id).inputs.dataset_inputs}
    assert {name: each.tags[0].value for name, each in logged.items()} == {each.name: each.context for each in sets}
    corpus = logged["corpus"].dataset
    assert (corpus.source_type, corpus.source, corpus.digest) == ("s3", '{"uri": "s3://bucket/corpus"}', "c" * 36)
    config = Path(uri.removeprefix("sqlite:///")).parent / "mlflow_artifacts" / run.run_id / "artifacts" / "config.json"
    assert json.loads(config.read_text())["seed"] == 3 and "secret" not in config.read_text()


@pytest.mark.slow
def test_a_model_that_is_registered_is_loaded_by_a_process_that_has_no_memlm(uri: str, tmp_path: Path) -> None:
    from memlm.data.tokenizer import train_tokenizer
    from memlm.model.language_model import build_model, model_config
    from memlm.recipes.laptop import smoke

    tokenizer = train_tokenizer(["Anna lives in Rome."], vocab_size=300)
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    model = build_model(model_config(smoke().model, dense=False, vocab_size=len(tokenizer), **ids), seed=0).eval()
    with Tracker(uri, "models").run("k", name="a") as run:
        assert run.log_model(model, tokenizer) == f"runs:/{run.run_id}/model"
        for _ in range(2):  # a second version of the same name
            assert run.log_model(model, tokenizer, register="facts") == "models:/facts"
    program = """
import sys
import mlflow.transformers
mlflow.set_tracking_uri(sys.argv[1])
for address in sys.argv[2:]:
    loaded = mlflow.transformers.load_model(address)
    print(loaded("Anna", max_new_tokens=6, do_sample=False)[0]["generated_text"].encode())
assert "memlm" not in sys.modules
"""
    command = [sys.executable, "-c", program, uri, f"runs:/{run.run_id}/model", "models:/facts/2"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    prompt = tokenizer("Anna", return_tensors="pt", add_special_tokens=False)
    ours = model.generate(**prompt, max_new_tokens=6, do_sample=False)[0]
    said = tokenizer.decode(ours, skip_special_tokens=True)
    assert done.stdout.splitlines() == [str(said.encode())] * 2


def test_a_long_run_is_measured(uri: str, query: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with Tracker(uri, "measured").run("k", name="a") as run, run.measuring():
        for _ in range(100):
            time.sleep(0.1)
            if found := query("SELECT key FROM metrics WHERE run_uuid = ?", run.run_id):
                break
    assert ("system/cpu_utilization_percentage",) in found


def test_off_does_nothing_and_needs_no_mlflow(tmp_path: Path) -> None:
    program = """
import sys
from memlm.tracking import Tracker
with Tracker("", "x").run("k", name="a", params={"lr": 1}) as parent:
    parent.log_metrics({"loss": float("nan")}, step=1)
    parent.set_tags({"a": "b"})
    parent.log_file(sys.argv[0] or __file__)
    Tracker("", "x").run("child", name="b", parent=parent)
assert "mlflow" not in sys.modules
"""
    (tmp_path / "program.py").write_text(program)
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_git_sha_names_the_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert tracking.git_sha(tmp_path) == ""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init")
    git("commit", "--allow-empty", "-m", "one")
    sha = git("rev-parse", "HEAD").strip()
    assert tracking.git_sha(tmp_path) == sha
    (tmp_path / "new.py").write_text("")
    assert tracking.git_sha(tmp_path) == f"{sha}-dirty"


def test_errors_can_be_passed_between_processes() -> None:
    assert str(pickle.loads(pickle.dumps(TrackingError("uri", "x", "rule", "remedy")))) == "uri x: rule. remedy"


def test_a_probe_writes_a_run_and_deletes_it(uri: str, query: Callable) -> None:
    for _ in range(2):
        assert tracking.probe(uri) == ""
    runs = query(
        "SELECT runs.lifecycle_stage FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?",
        tracking.PROBE_EXPERIMENT,
    )
    assert [state for (state,) in runs if state == "deleted"] and "active" not in [state for (state,) in runs]
