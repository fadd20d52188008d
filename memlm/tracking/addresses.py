"""Addresses of tracking servers and sqlite files: checks before MLflow opens one, and its errors in
memlm's words."""

import fcntl
import http.client
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote

from memlm.credentials import redacted, without_secrets

_REMEDY = "Check the server, your rights on it, and that it runs the same MLflow version."
_REFUSALS = {
    401: (
        "does not accept these credentials, or they have expired",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, again.",
    ),
    403: ("these credentials have no right to do this", "Ask for the rights on the server, or use other credentials."),
}
PROBE_SECONDS = 8  # MLflow itself would try for minutes


class TrackingError(ValueError):
    """Error of tracking: the field, its value, the rule and the remedy."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        value, rule = without_secrets(redacted(str(value))), without_secrets(rule)
        super().__init__(field, value, rule, remedy)  # all four, so that the error can be pickled between processes
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy

    def __str__(self) -> str:
        return f"{self.field} {self.value}: {self.rule}. {self.remedy}"


def sqlite_uri(database: str) -> str:
    """Address of a database file, with percent signs and question marks encoded: SQLAlchemy decodes
    the path, and ends it at a question mark."""
    return "sqlite:///" + database.replace("%", "%25").replace("?", "%3F")


def for_mlflow(uri: str) -> str:
    """Address for MLflow. With a '%' it needs another scheme: MLflow would make a folder from the
    undecoded path."""
    return uri.replace("sqlite:", "sqlite+pysqlite:", 1) if "%" in uri else uri


def database_of(uri: str) -> Path:
    """File of a sqlite address. Raises TrackingError if the address names no absolute path, or if
    MLflow would read it differently."""
    database = Path(unquote(uri.removeprefix("sqlite:///")))
    if not uri.startswith("sqlite:///") or not database.is_absolute():
        remedy = "Write sqlite:////absolute/path/mlflow.db, with four slashes."
        raise TrackingError("tracking uri", uri, "must be absolute: workers run elsewhere", remedy)
    if "?" in uri:
        raise TrackingError("tracking uri", uri, "has a '?', which ends its path", "Write %3F for a '?' in the path.")
    return database


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold a lock file, one process at a time. The file stays; links and pipes are refused."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise TrackingError("lock", lock, f"cannot be opened ({error.strerror})", "Put a plain file there.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_mlflow_database(database: Path, uri: str) -> None:
    """Raise TrackingError for another program's database, in which MLflow would make its tables."""
    with closing(sqlite3.connect(database)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "experiments" not in tables:
        raise TrackingError("tracking uri", uri, "is another program's database", "Choose another path.")


def probe_sqlite(uri: str) -> Path:
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


def probe_server(uri: str) -> None:
    """Raise TrackingError if the server does not answer. Any status below 500 is accepted: a
    refusal is reported at the first real request."""
    if not uri.startswith(("http://", "https://")):
        remedy = 'Use sqlite:////absolute/mlflow.db, http(s)://host:port, or "" for none.'
        raise TrackingError("tracking uri", uri, "has an unknown scheme", remedy)
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS).close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code < 500:
            return
        remedy = "Start it (mlflow server --backend-store-uri ...), correct the address, or track into sqlite."
        raise TrackingError("tracking uri", uri, f"does not answer ({error})", remedy) from error


def is_of_request(error: TrackingError) -> bool:
    """Whether the server answered and refused this call; False if it is down or overloaded, or
    refuses the credentials."""
    from mlflow.exceptions import MlflowException

    cause = error.__cause__
    return not isinstance(cause, MlflowException) or cause.get_http_status_code() in (400, 404)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        rule, remedy = _REFUSALS.get(error.get_http_status_code(), (f"MLflow: {_on_one_line(error)}", _REMEDY))
        raise TrackingError("tracking uri", uri, rule, remedy) from error


def _on_one_line(error: Exception) -> str:
    """Message without the SQL statement and its values, which SQLAlchemy adds."""
    lines = str(error).partition("\n[SQL:")[0].splitlines()
    return " ".join(line.strip().rstrip(".") for line in lines if not line.startswith("(raised as a result of"))
