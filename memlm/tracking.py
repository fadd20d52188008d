"""What did each run do, and how can it be compared with the others? The only room that imports MLflow.

A tracker is one experiment on one server (or in one sqlite file); jobs open runs in it, a sweep a parent with a child per
trial. A run is found again by its key, so a job that was killed and started again goes on in the same run. Weights never
come here: they stay on storage, and the run carries their digests as tags.
"""

import fcntl
import logging
import math
import os
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

KEY_TAG = "memlm.key"
PROBE_SECONDS = 8  # MLflow itself would try for minutes before it says that nobody answers
BATCH = 100  # the server's limit for params and for tags in one call; for metrics it is 1000
_log = logging.getLogger(__name__)


class TrackingError(ValueError):
    """What tracking refuses or cannot do: which field, its value, the rule, the remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        super().__init__(field, value, rule, remedy)  # all four, so that it survives pickling between processes
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy

    def __str__(self) -> str:
        return f"{self.field} {self.value}: {self.rule}. {self.remedy}"


class Tracker:
    def __init__(self, uri: str, experiment: str) -> None:
        """`uri`: `sqlite:////absolute/mlflow.db`, `http(s)://server`, or "" for none: everything works, nothing is kept."""
        self.uri, self.experiment = uri, experiment
        self._client: Any = None
        if not uri:
            return
        if uri.startswith("sqlite:"):
            database = _probe_sqlite(uri)
            with database.with_name(f"{database.name}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # MLflow's own first-use migrations race between processes
                self._open((database.parent / "mlflow_artifacts").as_uri())
        else:
            _probe_server(uri)
            self._open(None)

    def _open(self, artifacts: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient  # slow, so only where it is used

        with _translated(self.uri):
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                self._experiment_id = client.create_experiment(self.experiment, artifact_location=artifacts)
            elif found.lifecycle_stage == "deleted":
                remedy = f"Choose another name, or `mlflow experiments restore -x {found.experiment_id}`."
                raise TrackingError("experiment", self.experiment, "was deleted", remedy)
            else:
                self._experiment_id = found.experiment_id
        self._client = client

    def run(
        self,
        key: str,
        *,
        name: str,
        parent: "Run | None" = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> "Run":
        """The run with this key, new or continued. Its params are those it began with, or it is another run."""
        if self._client is None:
            return Run(None, "", self.uri)
        if "'" in key:
            raise TrackingError("key", key, "must not hold a quote", "Use letters, digits, '/', '-' and '_'.")
        tags = {KEY_TAG: key, **(tags or {}), **({"mlflow.parentRunId": parent.run_id} if parent else {})}
        with _translated(self.uri):
            query = f"tags.`{KEY_TAG}` = '{key}'"
            found = self._client.search_runs([self._experiment_id], query, order_by=["start_time ASC"], max_results=1)
            if found:
                run_id, known = found[0].info.run_id, found[0].data.params
                self._client.update_run(run_id, status="RUNNING", name=name)
            else:
                run_id, known = self._client.create_run(self._experiment_id, run_name=name).info.run_id, {}
