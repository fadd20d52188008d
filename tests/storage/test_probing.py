import logging
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memlm import storage
from memlm.storage import StorageError, probing, retries
from memlm.storage.s3 import client as s3
from tests.support.faults import FaultyProxy, plain_client


def test_a_reliable_store_passes_the_probe(root: str) -> None:
    result = storage.require_conditional_writes(root)
    assert result.faults == []
    assert (result.winners, result.replaces_named_version, result.refuses_other_version) == (1, True, True)
    assert storage.list_names(root) == []


def test_a_probe_removes_the_folder_that_it_created(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    assert storage.probe(f"{tmp_path}/kept/deep/er").faults == []
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_a_store_that_ignores_conditions_is_refused(bucket: str, proxy: FaultyProxy) -> None:
    proxy.drops = ("If-None-Match", "If-Match")  # like stores that ignore conditions
    result = storage.probe(bucket)
    assert result.winners == 16
    assert not result.refuses_other_version
    with pytest.raises(StorageError, match="16 of 16 writers that create one object at once succeed.*AWS S3"):
        storage.require_conditional_writes(bucket)
    proxy.drops = ()
    assert storage.list_names(bucket) == []


ANSWERS = {
    "wrong region": (
        (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
        "in another region, eu-west-1.*AWS_REGION",
    ),
    "malformed": ((400, "AuthorizationHeaderMalformed", {}), "in another region.*AWS_REGION"),
    "wrong key": ((403, "InvalidAccessKeyId", {}), "does not know these credentials"),
    "wrong secret": ((403, "SignatureDoesNotMatch", {}), "the secret key is wrong"),
    "expired": ((400, "ExpiredToken", {}), "token has expired.*Get new credentials"),
    "no rights": ((403, "AccessDenied", {}), "no right to do this"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_bad_access_is_one_clear_error(bucket: str, proxy: FaultyProxy, case: str) -> None:
    """The answers are those of AWS; moto knows neither regions nor rights."""
    answer, said = ANSWERS[case]
    proxy.plan(answer=answer)
    with pytest.raises(StorageError, match=said):
        storage.probe(bucket)
    assert proxy.requests <= 4


def test_a_read_only_bucket_is_refused(bucket: str, proxy: FaultyProxy) -> None:
    proxy.plan(answer=(403, "AccessDenied", {}), only="PUT")
    with pytest.raises(StorageError, match="may be read but not written.*Grant writing"):
        storage.probe(bucket)


def test_a_missing_bucket_is_reported(bucket: str) -> None:
    with pytest.raises(StorageError, match="bucket nowhere does not exist"):
        storage.probe("s3://nowhere/runs")


@pytest.fixture
def new_clients() -> Iterator[None]:
    """Clients read the credentials when they are created, and are cached."""
    s3._client.cache_clear()
    yield
    s3._client.cache_clear()


@pytest.mark.usefixtures("new_clients")
def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="no credentials were found in the SDK's standard chain"):
        storage.probe(bucket)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "silent"])
def test_a_silent_endpoint_is_reported_within_ten_seconds(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    proxy.stall_seconds = 60
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint if address == "silent" else address)
    with retries.using_policy(probing.FIRST_POLICY):
        s3.is_sent_over_tls(bucket)  # creates the client, which takes seconds on a busy machine
    proxy.plan(share=1, faults=("slow",))
    began = time.monotonic()
    with pytest.raises(StorageError, match="nothing answers|S3: "):
        storage.probe(bucket)
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("new_clients")
def test_neither_errors_nor_logs_contain_credentials(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIACANARYCANARY1234",
        "AWS_SECRET_ACCESS_KEY": "canary/secret/canary",
        "AWS_SESSION_TOKEN": "canary-token",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    echoed = f"{proxy.endpoint}/b/k?X-Amz-Signature=canary&X-Amz-Credential=AKIACANARYCANARY1234"
    said: list[str] = []
    with caplog.at_level(logging.DEBUG, logger="memlm"):
        for code in ("Strange", "AccessDenied", "SignatureDoesNotMatch", "ExpiredToken"):
            proxy.plan(answer=(403, code, {}), message=f"refused: {echoed} of AKIACANARYCANARY1234")
            with pytest.raises(StorageError) as caught:
                storage.write_bytes(f"{bucket}/x", b"x")
            assert caught.value.__cause__ is None and caught.value.__suppress_context__
            said.append(str(caught.value))
    said.append(caplog.text)
    assert not [text for text in said if "canary" in text.lower()]


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Choose a directory"):
        storage.probe(str(tmp_path / "file" / "runs"))
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)


def test_a_genuine_error_of_the_store_is_reported(bucket: str, proxy: FaultyProxy) -> None:
    proxy.plan(answer=(403, "Strange", {}), message="out of the ordinary")
    with pytest.raises(StorageError, match="out of the ordinary.*Check the bucket"):
        storage.list_names(bucket)
    assert plain_client(proxy).list_objects_v2(Bucket=bucket.removeprefix("s3://"))["KeyCount"] == 0
