"""Keys, tokens and rights, checked by a store with users and policies: moto's server with IAM
enabled."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import pytest

from memlm import storage
from memlm.storage import StorageError
from memlm.storage.s3 import client as s3

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
BUCKET = "s3://runs"
READING = ["s3:GetObject", "s3:ListBucket"]
ALL = [*READING, "s3:PutObject", "s3:DeleteObject", "s3:ListBucketMultipartUploads"]


@dataclass(frozen=True, kw_only=True)
class User:
    key: str
    secret: str


@dataclass(frozen=True, kw_only=True)
class Guarded:
    endpoint: str
    reader: User
    writer: User


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as server:
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        try:
            session = boto3.session.Session("root", "root", region_name="us-east-1")
            session.client("s3", endpoint_url=endpoint).create_bucket(Bucket="runs")
            iam = session.client("iam", endpoint_url=endpoint)
            reader, writer = _user(iam, "reader", READING), _user(iam, "writer", ALL)
            # From here on, nothing works without rights.
            plain = {"Content-Type": "text/plain"}
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", plain)).close()
            yield Guarded(endpoint=endpoint, reader=reader, writer=writer)
        finally:
            server.kill()


def _user(iam, name: str, actions: list[str]) -> User:
    iam.create_user(UserName=name)
    statement = {"Effect": "Allow", "Action": actions, "Resource": ["arn:aws:s3:::runs", "arn:aws:s3:::runs/*"]}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_user_policy(UserName=name, PolicyName="s3", PolicyDocument=json.dumps(policy))
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return User(key=made["AccessKeyId"], secret=made["SecretAccessKey"])


@pytest.fixture
def log_in(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Clients read the credentials when they are created, and are cached."""

    def as_user(user: User, **changed: str) -> None:
        wanted = {"AWS_ACCESS_KEY_ID": user.key, "AWS_SECRET_ACCESS_KEY": user.secret}
        for name, value in {**wanted, "AWS_DEFAULT_REGION": "us-east-1", **changed}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", guarded.endpoint)
        s3._client.cache_clear()

    yield as_user
    s3._client.cache_clear()


def test_a_user_with_write_access_can_use_the_store(guarded: Guarded, log_in) -> None:
    log_in(guarded.writer)
    seen = storage.probe(f"{BUCKET}/mine")
    assert seen.reads_back and seen.lists_new_objects and seen.deletes


def test_read_only_access_is_reported(guarded: Guarded, log_in) -> None:
    log_in(guarded.writer)
    storage.write_json(f"{BUCKET}/there.json", [1])
    log_in(guarded.reader)
    assert storage.read_json(f"{BUCKET}/there.json") == [1]
    with pytest.raises(StorageError, match="may be read but not written with these credentials.*Grant writing"):
        storage.probe(f"{BUCKET}/mine")
    with pytest.raises(StorageError, match="no right to do this.*Grant it, or use other credentials"):
        storage.delete(f"{BUCKET}/there.json")


WRONG = {
    "a key that nobody has": ({"AWS_ACCESS_KEY_ID": "AKIA" + "Q" * 16}, "does not know these credentials"),
    "a wrong secret": ({"AWS_SECRET_ACCESS_KEY": "another"}, "the secret key is wrong"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_credentials_are_one_error(guarded: Guarded, log_in, case: str) -> None:
    changed, said = WRONG[case]
    log_in(guarded.writer, **changed)
    with pytest.raises(StorageError, match=f"{said}.*Check the profile, or the environment"):
        storage.probe(f"{BUCKET}/mine")


def test_another_bucket_than_the_policy_names(guarded: Guarded, log_in) -> None:
    log_in(guarded.writer)
    with pytest.raises(StorageError, match="no right to do this"):
        storage.probe("s3://others/mine")
