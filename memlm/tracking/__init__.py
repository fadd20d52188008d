"""What did each run do, and how can it be compared with the others? The only room that imports
MLflow.

A tracker is one experiment on one server or in one sqlite file; a sweep is a parent run with a
child per trial. Runs are found again by key, so a job that was killed continues in its own.
Weights stay on storage; tags carry their digests. What is deleted in MLflow during the work
costs the log and not the work: it is reported once, with how to log again.
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
