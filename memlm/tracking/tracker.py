"""Trackers, each for one experiment, and their runs."""

import json
import logging
import math
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from memlm.credentials import MLFLOW, has_password, strip_credentials, without_secrets
from memlm.extras import needed_for
from memlm.tracking.addresses import (
    PROBE_SECONDS,
    TrackingError,
    for_mlflow,
    is_of_request,
    locked,
    probe_server,
    probe_sqlite,
    require_mlflow_database,
    translated,
)
from memlm.tracking.provenance import DataSet, source_tags

KEY_TAG = "memlm.key"
MODEL_FOLDER = "model"
PAUSE_SECONDS = 300.0
"""Seconds without a new attempt after a server did not answer."""
PROBE_EXPERIMENT = "memlm doctor"
PASSWORD_REMEDY = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead."
BATCH = 100  # the server's limit for params and for tags in one call; for metrics it is 1000
_log = logging.getLogger(__name__)


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
        """Make a call on the experiment, or on one of its runs.

        If the run was deleted, warn once and skip the call. If the place is forgiving and the
        server does not answer, skip calls for a while, since each attempt delays the work.
        """
        if time.monotonic() < self.silent_until:
            return
        try:
            with translated(self.uri):
                what(self.client)
        except TrackingError as error:
            refused = is_of_request(error)  # only then can the server say what was deleted
            if refused and (deleted := self._deleted(run_id)) is not None:
                self.warn_once(*deleted)
            elif self.forgiving and not refused:
                self.silent_until = time.monotonic() + PAUSE_SECONDS
                _log.warning("%s The work continues; the next attempt to log is in %.0f s", error, PAUSE_SECONDS)
            else:
                raise

    def _deleted(self, run_id: str) -> tuple[str, str] | None:
        """Deleted experiment or run, with the command that restores it; None if neither is."""
        experiment = self._state(lambda: self.client.get_experiment(self.experiment_id).lifecycle_stage)
        if experiment != "active":
            restore = f"mlflow experiments restore --experiment-id {self.experiment_id}"
            return f"experiment {self.experiment!r}", restore if experiment == "deleted" else ""
        run = self._state(lambda: self.client.get_run(run_id).info.lifecycle_stage) if run_id else "active"
        if run != "active":
            return f"run {run_id}", f"mlflow runs restore --run-id {run_id}" if run == "deleted" else ""
        return None

    def _state(self, read: Callable[[], str]) -> str:
        """State of an entity: active, deleted, or gone for good; active if the server does not
        say."""
        from mlflow.exceptions import MlflowException

        try:
            return read()
        except MlflowException as error:
            return "gone" if error.error_code == "RESOURCE_DOES_NOT_EXIST" else "active"

    def warn_once(self, what: str, restore: str) -> None:
        if (self.uri, what) in _reported_deletions:
            return
        _reported_deletions.add((self.uri, what))
        first = f"MLFLOW_TRACKING_URI={shlex.quote(for_mlflow(self.uri))} {restore}, and then " if restore else ""
        _log.warning(
            "the %s was deleted in MLflow; the work continues without logging to it. To log again: %srun the same command again",
            what,
            first,
        )


_reported_deletions: set[tuple[str, str]] = set()


class Tracker:
    """One experiment on one server or in one sqlite file."""

    def __init__(self, uri: str, experiment: str, *, forgiving: bool = False) -> None:
        """`uri` is `sqlite:////absolute/mlflow.db`, `http(s)://...`, or "" to track nothing: all
        calls then do nothing.

        A forgiving tracker only warns if the server stops answering later. A server that does not
        answer here is an error in any case.
        """
        self.uri, self.experiment, self.forgiving = uri, experiment, forgiving
        self._client: Any = None
        if not uri:
            return
        if has_password(uri):
            rule = "contains a user name, a password or a query, and addresses are logged"
            raise TrackingError("tracking uri", uri, rule, PASSWORD_REMEDY)
        strip_credentials(*MLFLOW)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every trial
        if uri.startswith("sqlite:"):
            database = probe_sqlite(uri)
            with locked(Path(f"{database}.lock")):  # MLflow's own first-use migrations race between processes
                require_mlflow_database(database, uri)
                self._open((database.parent / "mlflow_artifacts").as_uri())
        else:
            probe_server(uri)
            self._open(None)

    def _open(self, artifacts: str | None) -> None:
        with needed_for("tracking (--tracking off leaves it out)"):
            from mlflow import MlflowClient  # slow, so only if it is used

        # MLflow logs a line for every table of a new database, and a traceback for each error,
        # which it also raises.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

        with translated(self.uri):
            self._client = MlflowClient(for_mlflow(self.uri), for_mlflow(self.uri))
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
                raise  # otherwise another job has created it

    def run(
        self,
        key: str,
        *,
        name: str,
        parent: "Run | None" = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "Run":
        """Run with this key, new or continued. Raises TrackingError if a run with this key began
        with other params."""
        if "'" in key:
            raise TrackingError("key", key, "must not contain a quote", "Use letters, digits, '/', '-' and '_'.")
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
    """Tracked run. As a context manager it ends as FINISHED, as FAILED after an exception, and as
    KILLED after Ctrl-C."""

    def __init__(self, place: _Place | None, run_id: str) -> None:
        self._place, self.run_id = place, run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        self._call(lambda client: client.set_terminated(self.run_id, status))

    def _call(self, call: Callable[[Any], object]) -> None:
        """Make a call with MLflow's client; does nothing if the run is not tracked or was
        deleted."""
        if self._place is not None:
            self._place.call(call, self.run_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics in one call. Values that are not finite are left out, since MLflow's SQL
        store would change them."""
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
            raise TrackingError("file", path, "does not exist", "Write it before logging it.")
        self._call(lambda client: client.log_artifact(self.run_id, str(path), artifact_path=folder or None))

    def log_json(self, value: Any, name: str) -> None:
        """Log a value as a JSON artifact, without passwords and keys."""
        text = without_secrets(json.dumps(value, indent=1, default=str))
        self._call(lambda client: client.log_text(self.run_id, text, name))

    def log_inputs(self, sets: Sequence[DataSet]) -> None:
        """Log the data sets that the run reads, in MLflow's own table."""
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
        """Log a transformers model with its tokenizer, for mlflow.transformers.load_model; with a
        name, also register a new version. Returns its address, or "" if the run is not tracked."""
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
                # Given explicitly, since MLflow would run the model in another process to infer
                # them.
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
        """Log MLflow's system metrics (CPU, memory, disk, network and GPUs of this machine) every
        ten seconds while the block runs."""
        if self._place is None:
            yield
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=for_mlflow(self._place.uri))
        monitor.start()
        try:
            yield
        finally:
            # The monitor may wait for a dead server; finished work should not wait with it.
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
    """Write a run and delete it again. Returns the server's version; "" if it does not report one,
    or for a database."""
    tracker = Tracker(uri, PROBE_EXPERIMENT)
    with tracker.run("probe", name="probe") as run:
        run.log_metrics({"probe": 1.0})
    if not run.run_id:
        remedy = f"Restore it in MLflow: mlflow experiments restore --experiment-id {tracker._experiment_id}"
        raise TrackingError("experiment", PROBE_EXPERIMENT, "was deleted, and the probe writes to it", remedy)
    with translated(uri):
        tracker._client.delete_run(run.run_id)
    return _version_of(uri) if uri.startswith("http") else ""


def _version_of(server: str) -> str:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(get_default_host_creds(server), "/version", "GET", timeout=PROBE_SECONDS, max_retries=0)
    except Exception:  # many kinds; the version is optional
        return ""
    return answer.text.strip() if answer.status_code == 200 else ""
