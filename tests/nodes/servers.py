"""Servers of a cluster: S3 that fails now and then, and MLflow with passwords on PostgreSQL.

PostgreSQL runs outside of the namespaces, since it refuses to run as their root, and is reached
through its socket; the others inside.
"""

import os
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.jobs.running import BIN, environment
from tests.nodes.namespaces import GATEWAY

MLFLOW_PORT = 5000
_PROGRAMS = Path("/usr/lib/postgresql")


def postgres_programs() -> Path | None:
    """Folder of initdb and postgres, which Debian keeps off the PATH."""
    on_path = shutil.which("initdb")
    if on_path and shutil.which("postgres"):
        return Path(on_path).parent
    found = sorted(_PROGRAMS.glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with one database. Yields its URI for SQLAlchemy, with a password,
    through a socket below `folder`."""
    programs = postgres_programs()
    assert programs is not None
    password, data = secrets.token_hex(16), folder / "data"
    folder.mkdir()
    (folder / "password").write_text(password)
    somebody: list[str] = []
    if os.geteuid() == 0:
        somebody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
        subprocess.run(["chown", "-R", "nobody:nogroup", folder], check=True)
    made = ["--auth=scram-sha-256", f"--pwfile={folder}/password", "--username=mlflow", "--no-sync", "--encoding=UTF8"]
    subprocess.run([*somebody, programs / "initdb", "-D", data, *made], check=True, capture_output=True, cwd=folder)
    served = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*somebody, programs / "postgres", "-D", data, *served], stdout=log, stderr=log, cwd=folder
        )
    try:
        uri = f"postgresql://mlflow:{password}@/postgres?host={quote(str(folder))}"
        _wait(server, folder / "log", lambda: (folder / ".s.PGSQL.5432").exists())
        yield uri
    finally:
        server.terminate()
        server.wait()


@dataclass(frozen=True, kw_only=True)
class MLflow:
    uri: str
    username: str
    password: str

    @property
    def environment(self) -> dict[str, str]:
        """Address and credentials for its clients."""
        return {"MLFLOW_TRACKING_USERNAME": self.username, "MLFLOW_TRACKING_PASSWORD": self.password}


@contextmanager
def mlflow(folder: Path, database: str, *, host: str = GATEWAY, port: int = MLFLOW_PORT) -> Iterator[MLflow]:
    """An MLflow server that asks for a password and keeps everything in the database."""
    folder.mkdir()
    found = MLflow(uri=f"http://{host}:{port}", username="memlm", password=secrets.token_hex(16))
    config = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": database,
        "admin_username": found.username,
        "admin_password": found.password,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    (folder / "auth.ini").write_text("\n".join(["[mlflow]", *(f"{name} = {value}" for name, value in config.items())]))
    command = [str(BIN / "mlflow"), "server", "--app-name", "basic-auth", "--backend-store-uri", database]
    options = ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *options, "--host", host, "--port", str(port)],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=environment(
                MLFLOW_AUTH_CONFIG_PATH=str(folder / "auth.ini"),
                MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(16),
                MLFLOW_DISABLE_TELEMETRY="true",
            ),
        )
    try:
        _wait(server, folder / "log", lambda: answer_of(f"{found.uri}/health")[0] == 200)
        yield found
    finally:
        server.terminate()
        server.wait()


def answer_of(url: str, authorization: str = "") -> tuple[int, str]:
    """HTTP status and body of an answer; status 0 if nobody answers."""
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def _wait(server: subprocess.Popen[bytes], log: Path, is_up: Callable[[], bool], *, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not is_up():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"a server does not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)
