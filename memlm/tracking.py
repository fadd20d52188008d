"""What did each run do, and how can it be compared with the others? The only room that imports
MLflow.

A tracker is one experiment on one server or in one sqlite file; a sweep is a parent run with a
child per trial. Runs are found again by key, so a job that was killed continues in its own.
Weights stay on storage; tags carry their digests. What is deleted in MLflow during the work
costs the log and not the work: it is reported once, with how to log again.
"""

import fcntl
import http.client
import json
import logging
import math
import os
import shlex
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.parse import unquote

from memlm.credentials import MLFLOW, has_password, redacted, strip_credentials, without_secrets
from memlm.extras import needed_for
from memlm.provenance import DataSet, git_sha, source_tags

__all__ = ["DataSet", "Run", "Tracker", "TrackingError", "git_sha", "probe"]

KEY_TAG = "memlm.key"
MODEL_FOLDER = "model"
PROBE_SECONDS = 8  # MLflow itself would try for minutes
PAUSE_SECONDS = 300.0
"""Without a try after a server did not answer."""
PROBE_EXPERIMENT = "memlm doctor"
_REMEDY = "Check the server, your rights on it, and that it runs the same MLflow version."
_REFUSALS = {
    401: (
        "does not accept these credentials, or they have expired",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, anew.",
    ),
    403: ("these credentials have no right to do this", "Have it granted on the server, or use others."),
}
PASSWORD_REMEDY = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead."
BATCH = 100  # the server's limit for params and for tags in one call; for metrics it is 1000
_log = logging.getLogger(__name__)


class TrackingError(ValueError):
    """What tracking refuses or cannot do: which field, its value, the rule, the remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        value, rule = without_secrets(redacted(str(value))), without_secrets(rule)
        super().__init__(field, value, rule, remedy)  # all four, so that it survives pickling between processes
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy

    def __str__(self) -> str:
        return f"{self.field} {self.value}: {self.rule}. {self.remedy}"


@dataclass
class _Place:
    """One experiment on one server."""

    client: Any
    uri: str
    experiment: str
    experiment_id: str
    forgiving: bool
    silent_until: float = 0.0

    def call(self, what: Callable[[Any], object], run_id: str = "") -> None:
        """On the experiment, or on one of its runs. Where it was deleted this is said once, and
        the call left undone. So is one that a forgiving place cannot make; each try holds up the
        work, so there is none for a while."""
        if time.monotonic() < self.silent_until:
            return
        try:
            with _translated(self.uri):
                what(self.client)
        except TrackingError as error:
            refused = _is_of_request(error)  # else the server would only be asked in vain again
            if refused and (deleted := self._deleted(run_id)) is not None:
                self.say_once(*deleted)
            elif self.forgiving and not refused:
                self.silent_until = time.monotonic() + PAUSE_SECONDS
                _log.warning("%s The work continues, and logging is tried again in %.0f s", error, PAUSE_SECONDS)
            else:
                raise

    def _deleted(self, run_id: str) -> tuple[str, str] | None:
        """What is no longer there, with what brings it back."""
        experiment = self._state(lambda: self.client.get_experiment(self.experiment_id).lifecycle_stage)
        if experiment != "active":
            restore = f"mlflow experiments restore --experiment-id {self.experiment_id}"
            return f"experiment {self.experiment!r}", restore if experiment == "deleted" else ""
        run = self._state(lambda: self.client.get_run(run_id).info.lifecycle_stage) if run_id else "active"
        if run != "active":
            return f"run {run_id}", f"mlflow runs restore --run-id {run_id}" if run == "deleted" else ""
        return None

    def _state(self, read: Callable[[], str]) -> str:
        """active, deleted, or gone for good; active where the server does not tell."""
        from mlflow.exceptions import MlflowException

        try:
            return read()
        except MlflowException as error:
            return "gone" if error.error_code == "RESOURCE_DOES_NOT_EXIST" else "active"

    def say_once(self, what: str, restore: str) -> None:
        if (self.uri, what) in _said_deleted:
            return
        _said_deleted.add((self.uri, what))
        first = f"MLFLOW_TRACKING_URI={shlex.quote(_for_mlflow(self.uri))} {restore}, and then " if restore else ""
        _log.warning(
            "the %s was deleted in MLflow; the work continues without logging to it. To log again: %srun the same command again",
            what,
            first,
        )


_said_deleted: set[tuple[str, str]] = set()


class Tracker:
    def __init__(self, uri: str, experiment: str, *, forgiving: bool = False) -> None:
        """`uri`: `sqlite:////absolute/mlflow.db`, `http(s)://...`, or "" for none: all calls
        work, nothing is kept.

        Forgiving, it costs only the log that a server stops answering; not that it does not
        answer here.
        """
        self.uri, self.experiment, self.forgiving = uri, experiment, forgiving
        self._client: Any = None
        if not uri:
            return
        if has_password(uri):
            rule = "holds a user name, a password or a query, and addresses are logged"
            raise TrackingError("tracking uri", uri, rule, PASSWORD_REMEDY)
        strip_credentials(*MLFLOW)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every trial
        if uri.startswith("sqlite:"):
            database = _probe_sqlite(uri)
            with _locked(Path(f"{database}.lock")):  # MLflow's own first-use migrations race between processes
                _require_mlflow_database(database, uri)
                self._open((database.parent / "mlflow_artifacts").as_uri())
        else:
            _probe_server(uri)
            self._open(None)

    def _open(self, artifacts: str | None) -> None:
        with needed_for("tracking (--tracking off leaves it out)"):
            from mlflow import MlflowClient  # slow, so only where it is used

        # A line for every table of a new database, and a traceback for each error, which is
        # raised as well.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

        with _translated(self.uri):
            self._client = MlflowClient(_for_mlflow(self.uri), _for_mlflow(self.uri))
            if self._client.get_experiment_by_name(self.experiment) is None:
                self._create_experiment(artifacts)
            found = self._client.get_experiment_by_name(self.experiment)
        self._experiment_id = found.experiment_id
        self._place = _Place(self._client, self.uri, self.experiment, found.experiment_id, self.forgiving)

    def _create_experiment(self, artifacts: str | None) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_experiment(self.experiment, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise  # else another job was first

    def run(
        self,
        key: str,
        *,
        name: str,
        parent: "Run | None" = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "Run":
        """The run with this key, new or continued; with other params than it began with it would
        be another run."""
        if "'" in key:
            raise TrackingError("key", key, "must not hold a quote", "Use letters, digits, '/', '-' and '_'.")
        if self._client is None:
            return NOT_TRACKED
        begun: list[Run] = []
        self._place.call(
            lambda client: begun.append(self._begin(key, name, params or {}, {**(tags or {}), **_parent_tag(parent)}))
        )
        return begun[0] if begun else NOT_TRACKED

    def _begin(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> "Run":
        from mlflow.entities import Param

        marks = {KEY_TAG: key, **source_tags(), **tags}
        wanted = {param: str(value) for param, value in params.items()}
        same_key = f"tags.`{KEY_TAG}` = '{key}'"
        found = self._client.search_runs([self._experiment_id], same_key, order_by=["start_time"])
        begun = found[0] if found else self._client.create_run(self._experiment_id, tags=marks, run_name=name)
        known = begun.data.params
        changed = sorted(param for param in known.keys() & wanted.keys() if known[param] != wanted[param])
        if changed:
            rule = f"began with other params ({', '.join(changed)})"
            raise TrackingError("run", name, rule, "Give this run another key.")
        run = Run(self._place, begun.info.run_id)
        if found:
            self._client.update_run(run.run_id, status="RUNNING", name=name)
            run.set_tags(marks)
        run._log_batches("params", [Param(param, wanted[param]) for param in wanted if param not in known])
        return run


def _parent_tag(parent: "Run | None") -> dict[str, str]:
    return {"mlflow.parentRunId": parent.run_id} if parent is not None and parent.run_id else {}


class Run:
    """As a context manager it ends FINISHED, FAILED on an exception, KILLED on Ctrl-C."""

    def __init__(self, place: _Place | None, run_id: str) -> None:
        self._place, self.run_id = place, run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        self._call(lambda client: client.set_terminated(self.run_id, status))

    def _call(self, call: Callable[[Any], object]) -> None:
        """On the client; nothing where nothing is tracked, or the run was deleted."""
        if self._place is not None:
            self._place.call(call, self.run_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """All in one call. MLflow's SQL store would change values that are not finite, so they
        are left out."""
        if self._place is None:
            return
        from mlflow.entities import Metric

        points = [Metric(name, float(value), int(time.time() * 1000), step) for name, value in metrics.items()]
        for point in points:
            if not math.isfinite(point.value):
                _log.warning("metric %s is %s at step %d and was not logged", point.key, point.value, step)
        self._log_batches("metrics", [point for point in points if math.isfinite(point.value)])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        if self._place is not None:
            from mlflow.entities import RunTag

            self._log_batches("tags", [RunTag(name, str(value)) for name, value in tags.items()])

    def log_file(self, path: str | Path, folder: str = "") -> None:
        if not os.path.isfile(path):
            raise TrackingError("file", path, "is not there", "Write it before logging it.")
        self._call(lambda client: client.log_artifact(self.run_id, str(path), artifact_path=folder or None))

    def log_json(self, value: Any, name: str) -> None:
        """As an artifact, without passwords and keys."""
        text = without_secrets(json.dumps(value, indent=1, default=str))
        self._call(lambda client: client.log_text(self.run_id, text, name))

    def log_inputs(self, sets: Sequence[DataSet]) -> None:
        """What the run reads, in MLflow's own table of data sets."""
        if self._place is None:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(each.name, each.digest[:36], _kind_of(each.uri), json.dumps({"uri": each.uri})),
                [InputTag("mlflow.data.context", each.context)],
            )
            for each in sets
        ]
        self._call(lambda client: client.log_inputs(self.run_id, inputs))

    def log_model(self, model: Any, tokenizer: Any, *, register: str = "") -> str:
        """A transformers model with its tokenizer, for mlflow.transformers.load_model, and as a
        new version in the registry where a name is given. Returns its address; empty where
        nothing is tracked."""
        if self._place is None:
            return ""
        import mlflow.transformers

        address = f"runs:/{self.run_id}/{MODEL_FOLDER}"
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / MODEL_FOLDER
            mlflow.transformers.save_model(
                transformers_model={"model": model, "tokenizer": tokenizer},
                path=str(folder),
                task="text-generation",
                # The model's folder holds the code that it needs; to infer requirements MLflow
                # would run it in another process.
                pip_requirements=[f"{name}=={version(name)}" for name in ("torch", "transformers", "safetensors")],
            )
            self._call(lambda client: client.log_artifacts(self.run_id, str(folder), MODEL_FOLDER))
        if register:
            self._call(lambda client: self._register(client, register))
            address = f"models:/{register}"
        return address

    def _register(self, client: Any, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(self.run_id).info.artifact_uri}/{MODEL_FOLDER}"
        client.create_model_version(name, source, run_id=self.run_id)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """CPU, memory, disk, network and GPUs of this machine every ten seconds, while the block
        runs: MLflow's system metrics."""
        if self._place is None:
            yield
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=_for_mlflow(self._place.uri))
        monitor.start()
        try:
            yield
        finally:
            # It may be waiting for a server that is gone, for which work that is done should not
            # wait.
            ending = threading.Thread(target=monitor.finish, name="system metrics end", daemon=True)
            ending.start()
            ending.join(timeout=PROBE_SECONDS)

    def _log_batches(self, what: str, entries: list[Any]) -> None:
        def log(client: Any) -> None:
            for start in range(0, len(entries), BATCH):
                client.log_batch(self.run_id, **{what: entries[start : start + BATCH]})

        self._call(log)


NOT_TRACKED = Run(None, "")


def _kind_of(uri: str) -> str:
    return uri.partition("://")[0] if "://" in uri else "local"


def probe(uri: str) -> str:
    """Write a run and delete it again; returns the server's version, empty if it does not tell
    (a database has none)."""
    tracker = Tracker(uri, PROBE_EXPERIMENT)
    with tracker.run("probe", name="probe") as run:
        run.log_metrics({"probe": 1.0})
    if not run.run_id:
        remedy = f"Restore it in MLflow: mlflow experiments restore --experiment-id {tracker._experiment_id}"
        raise TrackingError("experiment", PROBE_EXPERIMENT, "was deleted, and the probe writes to it", remedy)
    with _translated(uri):
        tracker._client.delete_run(run.run_id)
    return _version_of(uri) if uri.startswith("http") else ""


def _version_of(server: str) -> str:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(get_default_host_creds(server), "/version", "GET", timeout=PROBE_SECONDS, max_retries=0)
    except Exception:  # of many kinds; a server need not tell
        return ""
    return answer.text.strip() if answer.status_code == 200 else ""


def sqlite_uri(database: str) -> str:
    """The address of a database file. SQLAlchemy, which opens it, ends a path at '?' and decodes
    it."""
    return "sqlite:///" + database.replace("%", "%25").replace("?", "%3F")


def _for_mlflow(uri: str) -> str:
    """Under the plain name MLflow makes a folder of an address before it decodes it."""
    return uri.replace("sqlite:", "sqlite+pysqlite:", 1) if "%" in uri else uri


def database_of(uri: str) -> Path:
    """The file that a sqlite address names. Raises TrackingError where it names none, or another
    one for MLflow than for us."""
    database = Path(unquote(uri.removeprefix("sqlite:///")))
    if not uri.startswith("sqlite:///") or not database.is_absolute():
        remedy = "Write sqlite:////absolute/path/mlflow.db, with four slashes."
        raise TrackingError("tracking uri", uri, "must be absolute: workers run elsewhere", remedy)
    if "?" in uri:
        raise TrackingError(
            "tracking uri", uri, "has a '?', at which its path ends", "Write %3F for a '?' in the path."
        )
    return database


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Alone among the processes that open a database. The file stays; a link or a pipe of this
    name is not followed."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise TrackingError("lock", lock, f"cannot be opened ({error.strerror})", "Put a plain file there.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _require_mlflow_database(database: Path, uri: str) -> None:
    """Another program's database is not one to make MLflow's tables in."""
    with closing(sqlite3.connect(database)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "experiments" not in tables:
        raise TrackingError("tracking uri", uri, "is another program's database", "Choose another path.")


def _probe_sqlite(uri: str) -> Path:
    database = database_of(uri)
    if database.exists() and not database.is_file():
        raise TrackingError("tracking uri", uri, "is a folder or a pipe, not a file", "Choose another path.")
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA user_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise TrackingError("tracking uri", uri, f"cannot be opened ({error})", "Choose another path.") from error
    return database


def _probe_server(uri: str) -> None:
    """Any answer below 500 will do: what it refuses, it says at the first real request."""
    if not uri.startswith(("http://", "https://")):
        remedy = 'Use sqlite:////absolute/mlflow.db, http(s)://host:port, or "" for none.'
        raise TrackingError("tracking uri", uri, "is of no known kind", remedy)
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS).close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code < 500:
            return
        remedy = "Start it (mlflow server --backend-store-uri ...), correct the address, or track into sqlite."
        raise TrackingError("tracking uri", uri, f"does not answer ({error})", remedy) from error


def _is_of_request(error: TrackingError) -> bool:
    """Whether the server answered, and refused this very call; not that it is gone, overloaded,
    or does not accept who asks."""
    from mlflow.exceptions import MlflowException

    cause = error.__cause__
    return not isinstance(cause, MlflowException) or cause.get_http_status_code() in (400, 404)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        rule, remedy = _REFUSALS.get(error.get_http_status_code(), (f"MLflow: {_on_one_line(error)}", _REMEDY))
        raise TrackingError("tracking uri", uri, rule, remedy) from error


def _on_one_line(error: Exception) -> str:
    """Without the SQL statement and its values, which SQLAlchemy adds to a database's error."""
    lines = str(error).partition("\n[SQL:")[0].splitlines()
    return " ".join(line.strip().rstrip(".") for line in lines if not line.startswith("(raised as a result of"))
