"""Shards in a folder, on S3 (moto's server) and on a server that speaks the hub's interface."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from threading import Thread
from urllib.parse import parse_qs, urlparse

import boto3
import huggingface_hub
import pytest
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from memlm.data.corpus.listing import (
    ChangedShard,
    Shard,
    list_corpus,
    open_shard,
    read_listing,
    sample_shards,
    write_listing,
)
from memlm.data.corpus.shards import ShardError
from memlm.hub import HubError, list_files
from memlm.jobs.preparing.corpus_shards import name_shards
from memlm.storage import StorageError

COMMIT = "a" * 40
DCLM_NAMES = [
    f"global-shard_{glob:02d}_of_10/local-shard_{local}_of_10/shard_{number:08d}_processed.jsonl.zst"
    for glob in range(1, 11)
    for local in range(10)
    for number in range(279)
][:27_840]


def dclm() -> list[Shard]:
    root = f"hf://datasets/mlfoundations/dclm-baseline-1.0@{COMMIT}"
    return [
        Shard(root=root, name=name, bytes=200_000_000 + n, version=f"sha256:{n:064x}")
        for n, name in enumerate(DCLM_NAMES)
    ]


def test_dclms_size_is_listed_and_sampled_within_seconds(tmp_path):
    shards, began = dclm(), time.process_time()
    write_listing(tmp_path, shards)
    assert read_listing(tmp_path, shards[0].root) == shards
    sampled = sample_shards(shards, fraction=0.01, seed=0)
    name_shards(shards)
    assert time.process_time() - began < 5
    assert 220 < len(sampled) < 340


def test_a_larger_fraction_contains_a_smaller_one_and_a_seed_draws_another():
    shards = dclm()
    samples = [set(sample_shards(shards, fraction=share, seed=3)) for share in (0.001, 0.01, 0.3, 1.0)]
    assert all(small < large for small, large in pairwise(samples))
    assert len(samples[2]) == pytest.approx(0.3 * 27_840, rel=0.03)
    other = set(sample_shards(shards, fraction=0.3, seed=4))
    assert len(other & samples[2]) == pytest.approx(0.09 * 27_840, rel=0.1)
    elsewhere = [Shard(root="s3://b/dclm", name=shard.name, bytes=1) for shard in shards]
    assert {shard.name for shard in sample_shards(elsewhere, fraction=0.01, seed=3)} == {
        shard.name for shard in samples[1]
    }
    assert sample_shards(shards, fraction=0.3, seed=3) == sorted(samples[2], key=lambda shard: shard.name)


def test_a_folder_is_listed_by_relative_names_and_a_changed_file_is_refused(tmp_path):
    for name in ("b/two.jsonl", "a/one.jsonl", "a/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    one, two = list_corpus(f"{tmp_path}/")
    assert (one.name, one.uri, one.bytes) == ("a/one.jsonl", f"{tmp_path}/a/one.jsonl", 3)
    (alone,) = list_corpus(two.uri)
    assert alone.uri == two.uri and alone.identity == two.identity == {"shard": "two.jsonl", "bytes": 3}
    with open_shard(one) as path:
        assert path.read_text() == "{}\n"
    (tmp_path / "a/one.jsonl").write_text("{}\n\n")
    with (
        pytest.raises(ChangedShard, match=r"a/one\.jsonl: changed since it was listed: 3 bytes then, 4 bytes now"),
        open_shard(one),
    ):
        pass
    os.remove(two.uri)
    with pytest.raises(ChangedShard, match="gone now"), open_shard(two):
        pass


# S3.


@pytest.fixture
def bucket(monkeypatch):
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="sets")
    yield client
    server.stop()


def test_a_prefix_of_thousands_of_objects_is_listed_completely(bucket):
    (backend,) = [backends["aws"] for backends in s3_backends.values() if "sets" in backends["aws"].buckets]
    for name in DCLM_NAMES[:2500]:
        backend.put_object("sets", f"dclm/{name}", b"x")
    backend.put_object("sets", "dclm/index.html", b"x")
    backend.put_object("sets", "dclm-other/shard.jsonl.zst", b"x")
    shards = list_corpus("s3://sets/dclm")
    assert [shard.name for shard in shards] == sorted(DCLM_NAMES[:2500])
    assert shards[0].uri == f"s3://sets/dclm/{shards[0].name}" and shards[0].bytes == 1
    assert shards[0].version == hashlib.md5(b"x").hexdigest()


def test_an_object_is_downloaded_temporarily_and_a_changed_one_is_refused(bucket):
    bucket.put_object(Bucket="sets", Key="few/a.jsonl", Body=b'{"text": "a"}\n')
    (shard,) = list_corpus("s3://sets/few/")
    with open_shard(shard) as path:
        assert path.read_bytes() == b'{"text": "a"}\n' and path.name == "a.jsonl"
    assert not path.exists()
    for body in (b'{"text": "b"}\n', b'{"text": "longer"}\n'):
        bucket.put_object(Bucket="sets", Key="few/a.jsonl", Body=body)
        with (
            pytest.raises(
                ChangedShard, match=r"s3://sets/few/a\.jsonl: changed since it was listed: 14 bytes, \w+ then"
            ),
            open_shard(shard),
        ):
            pass
    bucket.delete_object(Bucket="sets", Key="few/a.jsonl")
    with pytest.raises(StorageError, match=r"a\.jsonl: does not exist"), open_shard(shard):
        pass
    with pytest.raises(ShardError, match="s3://sets/few: no shard found"):
        list_corpus("s3://sets/few")
    with pytest.raises(StorageError, match="s3://none/dclm: bucket none does not exist.*correct the name"):
        list_corpus("s3://none/dclm")
    with pytest.raises(StorageError, match="must be a local path or s3://"):
        list_corpus("gs://sets/dclm")


# The hub.

FILES = {
    "global-shard_01_of_10/a.jsonl.zst": os.urandom(3000),
    "global-shard_01_of_10/b.jsonl.zst": os.urandom(2000),
    "global-shard_02_of_10/c.jsonl": b'{"text": "small"}\n',
    "README.md": b"card",
}


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """One data set at one commit, two files per page, served through the hub's interface."""

    served: dict[str, bytes]
    faults: list[str]
    """Faults for the next requests, one each: a status, `reset`, `cut` (after half of the body) or
    `flip` (of its last bit)."""

    def do_GET(self) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        self.fault = fault
        if fault == "reset":
            self.close_connection = True
            return None
        if fault.isdigit():
            return self.send_error(int(fault))
        url = urlparse(self.path)
        if url.path == f"/api/datasets/own/set/revision/{COMMIT}":
            return self.send(json.dumps({"id": "own/set", "sha": COMMIT, "siblings": []}).encode())
        if url.path.startswith(f"/api/datasets/own/set/tree/{COMMIT}"):
            return self.send_tree(
                url.path.removeprefix(f"/api/datasets/own/set/tree/{COMMIT}").strip("/"), parse_qs(url.query)
            )
        if url.path.startswith(f"/datasets/own/set/resolve/{COMMIT}/"):
            return self.send_file(url.path.removeprefix(f"/datasets/own/set/resolve/{COMMIT}/"))
        self.send_error(404)

    do_HEAD = do_GET

    def send_tree(self, folder: str, query: dict[str, list[str]]) -> None:
        first = int(query.get("cursor", ["0"])[0])
        names = [name for name in sorted(FILES) if name.startswith(folder)]
        headers = {}
        if first + 2 < len(names):
            headers["Link"] = (
                f'<http://{self.headers["Host"]}{urlparse(self.path).path}?recursive=true&cursor={first + 2}>; rel="next"'
            )
        entries = []
        for name in names[first : first + 2]:
            entry = {"type": "file", "path": name, "size": len(FILES[name]), "oid": git_id(FILES[name])}
            if name.endswith(".zst"):
                entry["lfs"] = {
                    "oid": hashlib.sha256(FILES[name]).hexdigest(),
                    "size": len(FILES[name]),
                    "pointerSize": 130,
                }
            entries.append(entry)
        self.send(json.dumps([*entries, {"type": "directory", "path": "folder", "oid": "0" * 40}]).encode(), **headers)

    def send_file(self, name: str) -> None:
        content = self.served[name]
        self.send(content, ETag=f'"{git_id(content)}"', **{"X-Repo-Commit": COMMIT})

    def send(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            if self.fault == "flip":
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.wfile.write(body[: len(body) // 2] if self.fault == "cut" else body)
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving_hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def hub(monkeypatch):
    with serving_hub() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr(Hub, "served", dict(FILES), raising=False)
        monkeypatch.setattr(Hub, "faults", [], raising=False)
        yield


def test_a_data_set_on_the_hub_is_listed_and_its_files_are_checked(hub):
    uri = f"hf://datasets/own/set@{COMMIT}"
    a, b, c = list_corpus(uri)
    assert a == Shard(
        root=uri,
        name="global-shard_01_of_10/a.jsonl.zst",
        bytes=3000,
        version=f"sha256:{hashlib.sha256(FILES['global-shard_01_of_10/a.jsonl.zst']).hexdigest()}",
    )
    assert c.version == f"git:{git_id(FILES[c.name])}"
    for shard in (a, b, c):
        with open_shard(shard) as path:
            assert path.read_bytes() == FILES[shard.name] and path.name == shard.name.rpartition("/")[2]
        assert not path.exists()
    assert [shard.name for shard in list_corpus(f"{uri}/global-shard_02_of_10")] == ["c.jsonl"]
    messages: list[str] = []
    list_corpus(uri, report=messages.append)
    assert messages == [f"{uri}: left out 1 (not a supported kind of file): 'README.md'"]
    with open_shard(list_corpus(f"{uri}/global-shard_01_of_10/")[1]) as path:
        assert path.read_bytes() == FILES["global-shard_01_of_10/b.jsonl.zst"]


@pytest.mark.parametrize("faults", [["503", "reset"], ["429"], ["", "500"], ["", "", "reset"]])
def test_requests_to_a_busy_hub_are_retried(hub, faults):
    whole = list_corpus(f"hf://datasets/own/set@{COMMIT}")
    Hub.faults = list(faults)
    assert list_corpus(f"hf://datasets/own/set@{COMMIT}") == whole and not Hub.faults


@pytest.mark.parametrize(
    "faults", [["503"], ["reset", "500"], ["", "cut"], ["", "503"], ["", "flip"], ["", "reset", "503"]]
)
@pytest.mark.parametrize("place", [1, 2])
def test_a_corrupted_download_is_repeated(hub, faults, place):
    shard = list_corpus(f"hf://datasets/own/set@{COMMIT}")[place]
    Hub.faults = list(faults)
    with open_shard(shard) as path:
        assert path.read_bytes() == FILES[shard.name]
    assert not Hub.faults


@pytest.mark.parametrize(
    "error", [RuntimeError("CAS service error"), ConnectionResetError("peer"), TimeoutError(), OSError(28, "full")]
)
def test_errors_of_hf_xet_are_retried_except_for_a_full_disk(hub, monkeypatch, error):
    """Replaces hf_xet alone, because the protocol of its servers cannot be served here."""
    (shard, *_), fetch, calls = list_corpus(f"hf://datasets/own/set@{COMMIT}"), huggingface_hub.hf_hub_download, []

    def fails_once(*place, **options):
        calls.append(place)
        if len(calls) == 1:
            raise error
        return fetch(*place, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails_once)
    if isinstance(error, OSError) and error.errno == 28:
        with pytest.raises((HubError, StorageError)), open_shard(shard):
            pass
        assert len(calls) == 1
        return
    with open_shard(shard) as path:
        assert path.read_bytes() == FILES[shard.name]
    assert len(calls) == 2


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_refusal_of_the_hub_is_not_retried(hub, status):
    Hub.faults = [status] * 3
    with pytest.raises(HubError, match=f"could not be listed on the hub: .*{status}"):
        list_files(f"hf://datasets/own/set@{COMMIT}")
    assert len(Hub.faults) == 2


@pytest.mark.parametrize("place", [1, 2])
def test_a_file_with_unexpected_content_is_refused(hub, place):
    shard = list_corpus(f"hf://datasets/own/set@{COMMIT}")[place]
    Hub.served[shard.name] = Hub.served[shard.name][:-1] + b"\x00"
    with (
        pytest.raises(HubError, match=f"{shard.name}: its content was .* but {shard.version} was listed"),
        open_shard(shard),
    ):
        pass


@pytest.mark.parametrize(
    "uri, reason",
    [
        ("hf://datasets/own/set", "the revision is missing, so the data may change"),
        ("hf://datasets/own/set@main", "the revision is 'main', which may later refer to other data"),
        ("hf://datasets/own/set@main/folder", "40 digits of a commit"),
        (f"hf://own/set@{COMMIT}", "not an address of files on the hub"),
    ],
)
def test_a_data_set_is_pinned_to_a_commit(uri, reason):
    with pytest.raises(HubError, match=reason):
        list_files(uri)


def test_a_hub_that_does_not_answer_is_one_error_with_the_remedy(monkeypatch, hub):
    with pytest.raises(HubError, match="could not be listed on the hub: .*404.*local copy instead"):
        list_files(f"hf://datasets/own/other@{COMMIT}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(HubError, match="could not be listed on the hub"):
        list_files(f"hf://datasets/own/set@{COMMIT}")
    assert time.monotonic() - began < 5
