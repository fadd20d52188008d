"""A base on the hub: fetched once at its commit, and checked."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub
import pytest
import torch

from memlm.hub import HubError
from memlm.model.bases import base as module
from memlm.model.bases.base import BaseError, load_base, open_base
from tests.support.families import tiny_base
from tests.support.tiny import random_batch

COMMIT = "c0ffee" * 6 + "abcd"
ADDRESS = f"own/model@{COMMIT}"
TOKENS = random_batch(0).tokens


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """One model at one commit, served through the hub's interface."""

    files: dict[str, bytes]
    """What is listed."""
    served: dict[str, bytes]
    """What is sent."""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path == f"/api/models/own/model/revision/{COMMIT}":
            return self.send(json.dumps({"id": "own/model", "sha": COMMIT, "siblings": []}).encode())
        if path.startswith(f"/api/models/own/model/tree/{COMMIT}"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": git_id(content)}
                for name, content in self.files.items()
            ]
            return self.send(json.dumps(entries).encode())
        name = path.removeprefix(f"/own/model/resolve/{COMMIT}/")
        if name in self.served:
            return self.send(self.served[name], ETag=f'"{git_id(self.files[name])}"', **{"X-Repo-Commit": COMMIT})
        self.send_error(404)

    do_HEAD = do_GET

    def send(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    tiny_base("qwen3").save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    files = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    files |= {"pytorch_model.bin": b"a pickle", "code.py": b"raise SystemExit", "onnx/model.safetensors": b"other"}
    for name, value in (("files", files), ("served", dict(files)), ("asked", [])):
        monkeypatch.setattr(Hub, name, value, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield tmp_path / "theirs"
        server.shutdown()


def test_a_model_is_fetched_once_without_what_memlm_does_not_read(hub):
    base = open_base(ADDRESS)
    model = load_base(base)
    assert base.address == ADDRESS and len(base.files) > 1 and base.digest == open_base(str(hub)).digest
    assert torch.equal(model(input_ids=TOKENS).logits, load_base(open_base(str(hub)))(input_ids=TOKENS).logits)
    assert not [path for path in Hub.asked if path.endswith((".bin", ".py", "onnx/model.safetensors"))]
    Hub.asked.clear()
    assert open_base(ADDRESS).digest == base.digest and not Hub.asked


def test_an_interrupted_download_is_finished(hub):
    base = open_base(ADDRESS)
    (base.folder / base.files[-1]).unlink()
    again = open_base(ADDRESS)
    assert again.files == base.files and Hub.asked


def test_content_that_is_not_what_was_listed_is_refused(hub):
    name = next(name for name in Hub.files if name.startswith("model-") and name.endswith(".safetensors"))
    Hub.served[name] = Hub.served[name][:-1] + bytes([Hub.served[name][-1] ^ 1])
    with pytest.raises(HubError, match=f"{name}: its content was .* but git:"):
        open_base(ADDRESS)


def test_a_model_larger_than_memory_is_not_fetched(hub, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 1000)
    with pytest.raises(BaseError, match="of weights, and 1 kB of memory are free"):
        open_base(ADDRESS)
    assert not [path for path in Hub.asked if "/resolve/" in path]


def test_a_model_without_safetensors_is_refused(hub, monkeypatch):
    monkeypatch.setattr(Hub, "files", {"config.json": Hub.files["config.json"], "pytorch_model.bin": b"a pickle"})
    with pytest.raises(BaseError, match="no weights as safetensors"):
        open_base(ADDRESS)
