"""Experiment tracking with MLflow. No other package imports it.

A tracker is one experiment on one server or in one sqlite file; a sweep is a parent run with a
child per trial. Runs are found by key, so a job that was killed continues in its own run. Weights
stay on storage, and tags hold their digests. If a run is deleted in MLflow during the work, only
its log is lost: a warning says once how to log again.
"""

from memlm.tracking.addresses import TrackingError, database_of, sqlite_uri
from memlm.tracking.provenance import DataSet, git_sha
from memlm.tracking.tracker import PROBE_EXPERIMENT, Run, Tracker, probe

__all__ = [
    "PROBE_EXPERIMENT",
    "DataSet",
    "Run",
    "Tracker",
    "TrackingError",
    "database_of",
    "git_sha",
    "probe",
    "sqlite_uri",
]
