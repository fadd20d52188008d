"""Boot scripts as Terraform renders them, run with stand-ins for a machine's programs."""

import getpass
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.infra.offline import INFRA, Unavailable, terraform

MODULES = INFRA / "modules"


def rendered(folder: Path, template: Path, **values: object) -> str:
    (folder / "values.json").write_text(json.dumps(values))
    expression = f'templatefile("{template}", jsondecode(file("values.json")))'
    (folder / "main.tf").write_text(f'output "script" {{\n  value = {expression}\n}}\n')
    try:
        by = terraform()
    except Unavailable as reason:
        pytest.skip(str(reason))
    for arguments in (["init"], ["apply", "-auto-approve"]):
        done = by(folder, *arguments, "-no-color")
        assert done.returncode == 0, done.stdout + done.stderr
    return str(by(folder, "output", "-raw", "script").stdout)


def program(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)


# MLflow's server
# ------------------------------------------------------------------------------------------


def server_script(folder: Path) -> str:
    bin, log = folder / "prefix/bin", folder / "log"
    program(
        bin / "python",
        "cat > /dev/null",
        '[ $# -eq 3 ] && { [ "$3" != lost ] || exit 1; echo -n "password-of-$3"; exit 0; }',
        f'[ $# -eq 1 ] && echo "users $ADMIN_PASSWORD $PIPELINES_PASSWORD" >> {log}',
        "exit 0",
    )
    program(bin / "mlflow", f"echo serving >> {log}", "exec sleep 600")
    program(bin / "setpriv", 'while [ "$1" != -- ]; do shift; done', "shift", 'exec "$@"')
    machine = {
        "python_prefix": str(folder / "prefix"),
        "user": getpass.getuser(),
        "home": str(folder / "home"),
        "rds_bundle": "/x",
        "log_agent": "true",
        "etc": str(folder / "etc"),
    }
    names = ("region", "hostname", "database_host", "database_user", "database_uri", "master_secret_arn")
    names += ("artifacts_uri", "iam_auth", "prepare_database", "prepare_users", "log_agent_config")
    return rendered(
        folder,
        MODULES / "mlflow/templates/server.sh.tftpl",
        **{name: name for name in names},
        machine=machine,
        admin_secret_name="SECRET_OF_admin",
        pipelines_secret_name="SECRET_OF_pipelines",
        passwords_version=7,
    )


def boots(folder: Path, script: str) -> tuple[int, list[str]]:
    """Run a script. Returns its status, and the calls of its programs until one second after its
    end."""
    process = subprocess.Popen(["bash", "-c", script], cwd=folder, start_new_session=True)
    try:
        status = process.wait(60)
        time.sleep(1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    log = folder / "log"
    return status, log.read_text().splitlines() if log.exists() else []


def test_mlflow_starts_with_the_current_passwords_or_not_at_all(tmp_path: Path) -> None:
    script = server_script(tmp_path)
    assert "# Version 7 of the passwords" in script and "AWS_METADATA_SERVICE_NUM_ATTEMPTS=10" in script
    for lost in ("admin", "pipelines"):
        status, done = boots(tmp_path, script.replace(f"SECRET_OF_{lost}", "lost"))
        assert status != 0 and not done and not (tmp_path / "etc/auth.ini").exists()
    status, done = boots(tmp_path, script)
    assert status == 0
    assert done == ["users password-of-SECRET_OF_admin password-of-SECRET_OF_pipelines", "serving"]
    assert "\nadmin_password = password-of-SECRET_OF_admin\n" in (tmp_path / "etc/auth.ini").read_text()


# A node's watch
# ------------------------------------------------------------------------------------------


def node_script(folder: Path, *, is_head: bool) -> str:
    machine = {"power_off": "echo off", "python_prefix": "/x", "user": "ray", "home": "/x/home"}
    return rendered(
        folder,
        MODULES / "ray_cluster/nodes/templates/node.sh.tftpl",
        **{name: name for name in ("region", "token_secret_name", "log_agent_config", "node_type", "resources")},
        machine={**machine, "token_path": "/x/token", "log_agent": "true", "environment": {}},
        tracking=None,
        cluster_yaml="cluster",
        is_head=is_head,
        is_spot=False,
        has_efa=False,
    )


@pytest.mark.parametrize("is_head", [True, False])
def test_a_node_without_its_part_of_ray_ends_itself(is_head: bool, tmp_path: Path) -> None:
    script = node_script(tmp_path, is_head=is_head)
    watch = script[script.index("\nalive() {") : script.index("\nwatch < /dev/null &")]

    def watching(*running: str, answers: str = "true") -> bool:
        stand_ins = f"""
            set -euo pipefail
            rounds=0
            power_off() {{ echo off; }}
            sleep() {{ rounds=$((rounds + 1)); [ $rounds -lt 40 ] || {{ echo watching; exit; }}; }}
            pgrep() {{ case " {" ".join(running)} " in *" $2 "*) ;; *) return 1 ;; esac; }}
            curl() {{ {answers}; }}
        """
        done = subprocess.run(
            ["bash", "-c", f"{stand_ins}\n{watch}\nwatch"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1] == "watching"

    assert watching("raylet", "gcs_server")
    assert not watching("gcs_server")
    assert watching("raylet") is not is_head
    assert watching("raylet", "gcs_server", answers="false") is not is_head
    assert watching("raylet", "gcs_server", answers="[ $((rounds % 10)) -eq 0 ]")  # busy
