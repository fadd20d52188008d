"""Copies on a node's disk, made by processes that end, live and are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memlm import storage
from memlm.data.corpus.listing import list_corpus
from tests.support.faults import FaultyProxy, plain_client

HOLDS = """
import sys
from memlm.data.corpus.listing import list_corpus, open_shard
(shard,) = list_corpus(sys.argv[1])
with open_shard(shard) as path:
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this process and of those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def corpus(bucket: str, proxy: FaultyProxy) -> str:
    plain_client(proxy).put_object(Bucket=bucket.removeprefix("s3://"), Key="dclm/a.jsonl", Body=b'{"text": "a"}\n')
    return f"{bucket}/dclm"


@pytest.fixture
def holder(corpus: str, temporary: Path) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A process that reads a shard, and the shard's copy."""
    command = [sys.executable, "-c", HOLDS, corpus]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_the_next_process_removes_the_copy_of_a_killed_one(
    holder: tuple[subprocess.Popen, Path], corpus: str, temporary: Path
) -> None:
    process, copy = holder
    (shard,) = list_corpus(corpus)
    with storage.local_file(shard.uri) as path:
        assert copy.is_relative_to(temporary) and f"memlm-{process.pid}-" in str(copy)
        assert copy.read_bytes() == path.read_bytes()  # its owner is alive
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert copy.exists()
    with storage.local_file(shard.uri) as path:
        assert not copy.exists()
        assert set(os.listdir(temporary)) == {path.parent.name, f".{path.parent.name}.partial.lock"}
    assert os.listdir(temporary) == []


def test_other_peoples_temporary_files_stay(temporary: Path) -> None:
    for name in ("memlm-1-of-somebody", ".memlm-12.partial.lock", f"memlm-1-{'0' * 32}", "other"):
        (temporary / name).mkdir()
    with storage.folder_for_copies():
        pass
    assert len(os.listdir(temporary)) == 4


def test_a_folder_is_removed_after_an_error_too(temporary: Path) -> None:
    with pytest.raises(KeyError), storage.folder_for_copies() as folder:
        (folder / "part").write_text("x")
        raise KeyError
    assert os.listdir(temporary) == []
