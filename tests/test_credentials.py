"""No printed address contains a password, and no credential with a line break reaches a client that
would print it."""

import os
import pickle
import time
from urllib.parse import quote

import pytest

from memlm.cli import launch, parse
from memlm.config import Config
from memlm.credentials import (
    CredentialError,
    PublicError,
    has_password,
    read_credential,
    read_key,
    redacted,
    strip_credentials,
    without_secrets,
)
from memlm.data.writers.config import EndpointConfig
from memlm.storage import StorageError
from memlm.tracking import Tracker, TrackingError

PASSWORD = "hunter2-Zq"
SCHEMES = ("http", "HTTP", "https", "postgresql", "postgresql+psycopg2", "mysql", "redis", "s3", "S3", "hf", "")
PASSWORDS = (
    "{}",
    "{}/x",
    "x/{}",
    "{}@x",
    "x@{}",
    "a/b@{}/c@d",
    "{}?x",
    "x?{}",
    "{}#",
    "x:{}:y",
    "{}%40",
    "[{}]",
    "é{}",
)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("form", PASSWORDS)
@pytest.mark.parametrize("user", ["user", "", "first.last"])
def test_passwords_of_addresses_are_hidden(scheme, form, user):
    address = f"{scheme + ':' if scheme else ''}//{user}:{form.format(PASSWORD)}@host.test:5000/path"
    assert PASSWORD not in redacted(address) and has_password(address)
    for text in (f"{address}: refused", f"cannot reach '{address}'.", f"({address})", f'{{"uri": "{address}"}}'):
        assert PASSWORD not in without_secrets(text)


@pytest.mark.parametrize("address", ["user:hunter2-Zq@host:5000", "user:a/hunter2-Zq@host", "user:hunter2-Zq@x@host/p"])
def test_passwords_are_hidden_in_addresses_without_a_scheme(address):
    assert PASSWORD not in redacted(address) + without_secrets(f"tracking uri {address}: has an unknown scheme")


@pytest.mark.parametrize(
    "address",
    [
        f"https://host/v1?token={PASSWORD}",
        f"https://host/v1?a=b&X-Amz-Signature={PASSWORD}",
        f"https://host?{PASSWORD}",
        f"https://host/v1?token=a@{PASSWORD}",
        f"https://host/v1#access_token={PASSWORD}",
        f"s3://bucket/prefix?secret_key={PASSWORD}",
        f"https://{PASSWORD}@github.test/owner/name",
        f"https://host/v1;jsessionid=1;token={PASSWORD}",
        f"mssql://host;user=sa;Password={PASSWORD};database=x",
    ],
)
def test_queries_and_tokens_in_place_of_users_are_hidden(address):
    assert PASSWORD not in redacted(address) and has_password(address)
    assert PASSWORD not in without_secrets(f"HTTPConnectionPool: {address} (Caused by NewConnectionError)")


@pytest.mark.parametrize(
    "form", ["host=h user=u password={} dbname=d", "Server=h;Uid=u;PWD={};", "(api_key={}, tries=3)"]
)
def test_a_password_quoted_by_a_driver_is_hidden_outside_an_address_too(form):
    assert PASSWORD not in without_secrets(f"cannot connect: {form.format(PASSWORD)}")
    for text in (
        "RAY_AUTH_MODE=token",
        "pad_token=None",
        "max_tokens=5",
        "/data/token=abc/x",
        "s3://bucket/token=abc/x",
    ):
        assert without_secrets(text) == text


@pytest.mark.parametrize("mark", ['"', "'", "<", ">", "`", "|"])
def test_a_password_with_a_mark_that_ends_an_address_elsewhere_is_hidden(mark):
    said = without_secrets(f'Invalid endpoint: "http://user:{mark}{PASSWORD}@host:9000/x" (again)')
    assert PASSWORD not in said and said.endswith('...@host:9000/x" (again)')


def test_a_credential_is_hidden_as_an_address_spells_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pa/ss wörd+1")
    for spelled in ("pa/ss wörd+1", "pa%2Fss%20w%C3%B6rd%2B1", "pa%2Fss+w%C3%B6rd%2B1"):
        assert "ss" not in without_secrets(f"cannot ask for {spelled}")


def test_a_clients_relative_address_is_hidden_too():
    text = f"HTTPConnectionPool(host='h', port=1): Max retries exceeded with url: /x?token={PASSWORD} (Caused by ...)"
    assert PASSWORD not in without_secrets(text) and "with url: /x?" in without_secrets(text)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8000/v1",
        "https://mlflow.example",
        "https://mlflow.example/@team",
        "s3://bucket/user@example.com/runs",
        "hf://datasets/owner/name@0123456789012345678901234567890123456789/folder",
        "hf://owner/name/config:split@0123456789012345678901234567890123456789",
        "sqlite:////tmp/what?/a@b/mlflow.db",
        "/data/what?/run:1@home/x",
        "runs",
        "https://docs.test/page#a-section",
        "http://[::1]:5000",
    ],
)
def test_text_without_secrets_is_unchanged(address):
    assert redacted(address) == address and not has_password(address)
    for text in (f"{address}: gone. Write it as hf://owner/name[/config][:split]@commit.", f"Look at {address}."):
        assert without_secrets(text) == text


def test_a_message_stays_readable():
    text = 'Use sqlite:////absolute/mlflow.db, http(s)://host:port, or "" for none.'
    assert without_secrets(text) == text
    assert redacted("postgresql://u:p@host:5432/db") == "postgresql://...@host:5432/db"
    assert redacted("https://host/v1?token=x") == "https://host/v1?..."


def test_credentials_in_the_environment_are_hidden_everywhere(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2VjEXAMPLE//\n")
    monkeypatch.setenv("SOME_KEY", "sk-own-variable")
    monkeypatch.setenv("HF_TOKEN", "short")
    read_key("SOME_KEY")
    said = without_secrets("Invalid header value b'IQoJb3JpZ2luX2VjEXAMPLE//\\n' and 'Bearer sk-own-variable' in short")
    assert said == "Invalid header value b'***\\n' and 'Bearer ***' in short"
    assert without_secrets("AKIAIOSFODNN7EXAMPLE hf_abcdefghijklmnopqrstuvwx") == "(key) (token)"


def test_redaction_is_fast_on_any_text():
    began = time.monotonic()
    for text in ("a:," * 20_000, "x" * 100_000, "//" * 50_000, "a:b@" * 20_000, "?a=" * 30_000, "http://" * 10_000):
        without_secrets(text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("around", [" ", "\n", "\r\n", "\t\n"])
def test_white_space_around_a_credential_is_not_part_of_it(monkeypatch, around):
    monkeypatch.setenv("MEMLM_TEST_KEY", f"{around}{PASSWORD}{around}")
    assert read_credential("MEMLM_TEST_KEY") == read_key("MEMLM_TEST_KEY") == PASSWORD
    strip_credentials("MEMLM_TEST_KEY", "MEMLM_NOT_SET")
    assert os.environ["MEMLM_TEST_KEY"] == PASSWORD and "MEMLM_NOT_SET" not in os.environ


@pytest.mark.parametrize("inside", ["\n", "\r", "\x07", "\x1b[31m", "\u202e", "\u200b", "\ufeff", "\u2028"])
def test_control_characters_are_refused_by_the_variables_name_alone(monkeypatch, inside):
    monkeypatch.setenv("MEMLM_TEST_KEY", f"{PASSWORD}{inside}{PASSWORD}")
    for read in (read_credential, read_key, strip_credentials):
        with pytest.raises(CredentialError, match="the environment variable MEMLM_TEST_KEY contains") as refused:
            read("MEMLM_TEST_KEY")
        assert PASSWORD not in str(refused.value) and inside not in str(refused.value)


def test_a_key_is_ascii_and_a_password_need_not_be(monkeypatch):
    monkeypatch.setenv("MEMLM_TEST_KEY", f"\u201c{PASSWORD}\u201d")
    assert PASSWORD in read_credential("MEMLM_TEST_KEY")
    with pytest.raises(CredentialError, match="MEMLM_TEST_KEY.*not ASCII") as refused:
        read_key("MEMLM_TEST_KEY")
    assert PASSWORD not in str(refused.value)


def test_errors_hide_secrets_and_can_be_passed_between_processes():
    address = f"http://user:{PASSWORD}@host/x"
    errors = [
        StorageError("uri", address, f"answers at {address}", "Mend it."),
        TrackingError("tracking uri", address, f"answers at {address}", "Mend it."),
        PublicError(f"could not be fetched from {address}"),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error) and PASSWORD not in repr(error) + str(error) + repr(vars(error))


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://user:{PASSWORD}@host/db",
        f"HTTP://user:{PASSWORD}@host",
        f"http://user:{PASSWORD}/x@host",
        f"https://host/?token={PASSWORD}",
        f"user:{PASSWORD}@host:5000",
        f"http://user:{quote(PASSWORD + '/')}@host",
    ],
)
def test_a_tracking_address_with_a_password_is_refused_without_printing_it(address, capsys, tmp_path):
    with pytest.raises(TrackingError) as refused:
        Tracker(address, "x")
    assert PASSWORD not in str(refused.value)
    for arguments in (["--tracking", address], [f"--tracking={address}"], ["--trakcing", address]):
        with pytest.raises(SystemExit):
            config = parse("", ["smoke", "--storage", str(tmp_path), *arguments])
            launch(lambda config=config: Tracker(config.tracking, "x"))  # finds a forgotten scheme
        said = capsys.readouterr()
        assert PASSWORD not in said.out + said.err


@pytest.mark.parametrize("field", ["tracking", "storage", "checkpoint"])
def test_no_address_of_a_config_holds_a_password(field):
    with pytest.raises(
        ValueError, match=f"{field} is http://\\.\\.\\.@host; .*must not contain a user name"
    ) as refused:
        Config(recipe="smoke", **{field: f"http://user:{PASSWORD}@host"})
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{PASSWORD}@host/v1",
        f"https://host/v1?api-key={PASSWORD}",
        f"ftp://user:{PASSWORD}@host/v1",
        f"//user:{PASSWORD}@host",
        f"http://[{PASSWORD}@host",
    ],
)
def test_an_endpoint_with_a_password_is_refused_without_printing_it(address):
    with pytest.raises(ValueError, match="writer.endpoint.base_url") as refused:
        EndpointConfig(base_url=address)
    assert PASSWORD not in str(refused.value)
