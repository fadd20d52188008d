"""MLflow's server as its machine starts it: sign-in over TLS by its own name, and its own sign-in
to its database."""

import base64
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.running import BIN, ROOT, environment
from tests.jobs.test_submit import free_ports

pytestmark = pytest.mark.infra
TEMPLATES = ROOT / "infra/modules/mlflow/templates"
pytest.importorskip("flask_wtf", reason="mlflow[auth] is in the machine image alone")

CAPTURE = """
import sqlalchemy, sitecustomize
from sqlalchemy import event

@event.listens_for(sqlalchemy.Engine, "do_connect")
def capture(dialect, record, arguments, parameters):
    print("PASSWORD", parameters.get("password"))
    raise SystemExit(0)

sqlalchemy.create_engine("ADDRESS").connect()
"""


def connecting(tmp_path: Path, address: str) -> str:
    """Password with which a process like MLflow's would connect."""
    (tmp_path / "sitecustomize.py").write_text((TEMPLATES / "iam_auth.py").read_text())
    changes = {
        "PYTHONPATH": str(tmp_path),
        "MLFLOW_DATABASE_USER": "mlflow",
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-c", CAPTURE.replace("ADDRESS", address)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**changes), timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("PASSWORD ")[2].strip()


def test_a_connection_signs_in_by_iam(tmp_path):
    pytest.importorskip("psycopg")
    address = "postgresql+psycopg://{}@db.internal:5432/mlflow?sslmode=verify-full&sslrootcert=/x"
    password = connecting(tmp_path, address.format("mlflow"))
    assert password.startswith("db.internal:5432/?Action=connect&DBUser=mlflow&") and "X-Amz-Signature=" in password
    assert connecting(tmp_path, address.format("other")) == "None"
    assert connecting(tmp_path, "sqlite://") == "None"


def server_command(**values: str) -> str:
    """The template's own line, with this machine's values."""
    found = re.search(
        r"as_mlflow (mlflow server .*?) \|\| true", (TEMPLATES / "server.sh.tftpl").read_text(), re.DOTALL
    )
    assert found
    line = found[1].replace("$etc", values.pop("etc"))
    for name, value in values.items():
        line = line.replace(f"${{{name}}}", value)
    assert "${" not in line
    return line


def prepare_users(folder: Path, admin: str, pipelines: str) -> None:
    changes = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64}
    passwords = {"ADMIN_PASSWORD": admin, "PIPELINES_PASSWORD": pipelines}
    command = [str(BIN / "python"), str(TEMPLATES / "prepare_users.py")]
    done = subprocess.run(
        command, env=environment(**changes, **passwords), cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("mlflow")
    template = (TEMPLATES / "server.sh.tftpl").read_text()
    certificate = re.search(r"^openssl req .*?tls\.crt\"$", template, re.DOTALL | re.MULTILINE)
    assert certificate
    subprocess.run(
        ["bash", "-c", certificate[0]], env={**os.environ, "etc": str(folder)}, check=True, capture_output=True
    )
    ini = re.search(r"<<INI\n(.*?)\nINI", template, re.DOTALL)
    assert ini
    database = f"sqlite:///{folder}/mlflow.db"
    settings = ini[1].replace("${database_uri}", database)
    (folder / "auth.ini").write_text(settings.replace("$admin_password", "admins-next-password"))
    for which in ("own", "next"):  # the second boot finds the users there
        prepare_users(folder, f"admins-{which}-password", f"pipelines-{which}-password")
    (port,) = free_ports(1)
    command = (
        server_command(
            etc=str(folder), database_uri=database, artifacts_uri=str(folder / "artifacts"), hostname="mlflow.test"
        )
        .replace("--port 5000", f"--port {port} --workers 1")
        .replace("localhost:5000", f"localhost:{port}")
    )
    changes = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment(**changes),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"https://localhost:{port}", folder)
        yield f"https://localhost:{port}", folder
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def wait_for(address: str, folder: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if ask((address, folder), "/health") == 200:
                return
        except OSError:
            time.sleep(1)  # not up yet
    pytest.fail(f"the server does not answer:\n{(folder / 'log').read_text()}")


def ask(server: tuple[str, Path], path: str, *, user: str = "", host: str = "", origin: str = "") -> int:
    """The HTTP status; with an origin, of what a page of that origin posts."""
    address, folder = server
    headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()} if user else {}
    headers |= {"Host": host} if host else {}
    headers |= {"Origin": origin, "Content-Type": "application/json"} if origin else {}
    request = urllib.request.Request(
        f"{address}{path}", headers=headers, data=b'{"max_results": 1}' if origin else None
    )
    try:
        with urllib.request.urlopen(
            request, timeout=20, context=ssl.create_default_context(cafile=folder / "tls.crt")
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
USER = "/api/2.0/mlflow/users/get?username=admin"


def test_every_visitor_must_sign_in(server):
    for user in ("admin:admins", "pipelines:pipelines"):
        assert ask(server, SEARCH, user=f"{user}-next-password") == 200
        assert ask(server, SEARCH, user=f"{user}-own-password") == 401  # rotated
    assert ask(server, USER, user="pipelines:pipelines-next-password") == 403
    assert ask(server, USER, user="admin:admins-next-password") == 200
    assert ask(server, SEARCH) == 401
    assert ask(server, SEARCH, user="admin:password1234") == 401
    assert ask(server, "/health", host="10.20.0.7:5000") == 200  # the load balancer asks by address
    assert ask(server, SEARCH, user="pipelines:pipelines-next-password", host="evil.example.com") == 403
    assert ask(server, SEARCH, user="pipelines:pipelines-next-password", host="mlflow.test:8443") == 200
    user = "pipelines:pipelines-next-password"
    for origin, status in (("https://mlflow.test:8443", 200), ("https://evil.example.com", 403)):
        assert ask(server, SEARCH.partition("?")[0], user=user, origin=origin) == status
