"""Two applies at the same time: the second is refused by the lock file that the environments'
own backend block asks for."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.jobs.running import ROOT

pytestmark = [
    pytest.mark.infra,
    pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed"),
]

SLOW = """
resource "terraform_data" "slow" {
  provisioner "local-exec" {
    command = "touch began; while ! test -e over; do sleep 0.1; done"
  }
}
"""


def backend_of(environment: str) -> str:
    found = re.search(
        r'^  backend "s3" \{\n.*?^  \}$',
        (ROOT / f"infra/envs/{environment}/versions.tf").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert found
    return found[0]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_a_second_apply_during_a_running_one_is_refused(environment, tmp_path):
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    environ = {
        **os.environ,
        **keys,
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
    }
    environ["TF_CLI_CONFIG_FILE"] = os.devnull
    boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL_S3"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    ).create_bucket(Bucket="state")
    (tmp_path / "main.tf").write_text(f"terraform {{\n{backend_of(environment)}\n}}\n{SLOW}")
    settings = [
        "bucket=state",
        "region=us-east-1",
        "skip_credentials_validation=true",
        "skip_requesting_account_id=true",
        "use_path_style=true",
    ]

    def terraform(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["terraform", *arguments, "-no-color"],
            cwd=tmp_path,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    try:
        init = terraform("init", *(f"-backend-config={setting}" for setting in settings))
        said, _ = init.communicate(timeout=120)
        assert init.returncode == 0, said
        first = terraform("apply", "-auto-approve")
        wait_for(tmp_path / "began", first)
        second = terraform("apply", "-auto-approve")
        said, _ = second.communicate(timeout=120)
        assert second.returncode == 1 and "Error acquiring the state lock" in said, said
        (tmp_path / "over").touch()
        said, _ = first.communicate(timeout=120)
        assert first.returncode == 0, said
        third = terraform("plan", "-detailed-exitcode")
        said, _ = third.communicate(timeout=120)
        assert third.returncode == 0, said  # the state is the first one's, and free
    finally:
        (tmp_path / "over").touch()
        moto.stop()
