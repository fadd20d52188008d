"""Tracking servers that are down, never answer, or require credentials."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from memlm import tracking
from memlm.tracking import Tracker, TrackingError
from tests.nodes.servers import MLflow, mlflow


def test_an_unreachable_server_is_reported_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: nobody else can take the port meanwhile
        start = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer.*Start it"):
            Tracker(f"http://127.0.0.1:{unused.getsockname()[1]}", "x")
    assert time.monotonic() - start < 5


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.addresses, "PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TrackingError, match="does not answer"):
        Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "x")


@pytest.mark.parametrize("status, message", [(200, "3.17.2"), (401, "")])
def test_the_version_that_a_server_reports(status: int, message: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(b"3.17.2")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert tracking.tracker._version_of(f"http://127.0.0.1:{server.server_port}") == message
        server.shutdown()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflow]:
    """MLflow's own server, which asks for names and passwords."""
    folder = tmp_path_factory.mktemp("guarded")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with mlflow(folder / "server", f"sqlite:///{folder}/mlflow.db", host="127.0.0.1", port=port) as server:
        yield server


def log_in(monkeypatch: pytest.MonkeyPatch, name: str, password: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


@pytest.mark.slow
def test_credentials_that_the_server_does_not_accept_are_one_error(
    guarded: MLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, guarded.username, guarded.password)
    assert tracking.probe(guarded.uri)
    log_in(monkeypatch, guarded.username, "an-expired-password")
    with pytest.raises(TrackingError) as refused:
        tracking.probe(guarded.uri)
    assert str(refused.value) == (
        f"tracking uri {guarded.uri}: does not accept these credentials, or they have expired. "
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, again."
    )


@pytest.mark.slow
def test_a_user_without_write_access_is_refused(guarded: MLflow, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(monkeypatch, guarded.username, guarded.password)
    Tracker(guarded.uri, "of the first user")
    from mlflow.server.auth.client import AuthServiceClient

    AuthServiceClient(guarded.uri).create_user("second", "another-password")
    log_in(monkeypatch, "second", "another-password")
    with pytest.raises(TrackingError, match="these credentials have no right to do this. Ask for the rights"):
        Tracker(guarded.uri, "of the first user").run("k", name="a")
