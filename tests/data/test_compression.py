"""Compressed files are read completely or refused; a file that would fill the memory is refused
before it does."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from memlm.data.corpus.shards import read_documents, read_lines, read_records
from memlm.data.file_kinds import ShardError
from memlm.data.questions.sources import read_rows

READ = """
import resource, sys
from memlm.data.corpus.accounting import Accounting
from memlm.data.file_kinds import ShardError
from memlm.data.questions.sources import read_rows
from memlm.data.corpus.shards import read_documents

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
for path in sys.argv[2:]:
    try:
        if sys.argv[1] == "questions":
            print(sum(1 for _ in read_rows(path)))
        else:
            print(sum(len(document.text) for document in read_documents(path, accounting=Accounting())))
    except ShardError as error:
        print(error)
print(peak() - before)
"""


def read_apart(kind, paths):
    """The output of reading each file in a process of its own, and that process's growth in MiB."""
    done = subprocess.run([sys.executable, "-c", READ, kind, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *lines, grown = done.stdout.splitlines()
    return lines, int(grown)


def test_long_lines_of_many_escapes_and_a_few_brackets_take_a_few_times_their_size(tmp_path):
    paths = []
    for number, body in enumerate(["a\\n", 'a\\"', "\\u0041", "plain "]):
        text = body * ((16 * 2**20 - 1000) // len(body))
        paths.append(str(tmp_path / f"{number}.jsonl"))
        (tmp_path / f"{number}.jsonl").write_text('{"text": "' + text + '", "more": [' + "[]," * 70 + "1]}\n")
    lines, grown = read_apart("corpus", paths)
    assert all(int(each) > 2**20 for each in lines) and grown < 160


@pytest.mark.slow
def test_lines_of_millions_of_small_values_take_a_few_times_their_size_too(tmp_path):
    paths = []
    for number, value in enumerate(["1,", "[],"]):
        values = value * ((16 * 2**20 - 1000) // len(value))
        paths.append(str(tmp_path / f"{number}.jsonl"))
        (tmp_path / f"{number}.jsonl").write_text('{"text": "' + "x" * 100 + f'", "more": [{values}1]}}\n')
    lines, grown = read_apart("corpus", paths)
    assert lines == ["100", "0"] and grown < 256
    with pytest.raises(ShardError, match=r":1: too many brackets \(more than 1048576\)\. Repair"):
        list(read_records(paths[1]))


LONG = "a" * 200_000
BOMBS = {
    "repeated": {"question": ["q"] * 400, "answer": [LONG] * 400},
    "long": {"question": ["q"], "answer": [LONG * 300]},
    "lists": {"question": ["q"] * 30, "answer": [[LONG] * 10] * 30},
    "numbers": {"question": ["q"] * 300, "answer": [[1] * 10_000] * 300},
    "one list": {"question": ["q"], "answer": [np.ones(5_000_000, dtype=np.int8)]},
    "structs": {"question": ["q"] * 300, "answer": [{"value": LONG, "aliases": ["b"]}] * 300},
}


def test_small_files_of_questions_cannot_fill_the_memory(tmp_path):
    paths = [str(tmp_path / f"{kind}.parquet") for kind in BOMBS]
    for path, content in zip(paths, BOMBS.values(), strict=True):
        pq.write_table(pa.table(content), path, compression="zstd")
    record = json.dumps({"question": "?", "answer": [LONG]}).encode()
    for name, between, ends in (
        ("q.jsonl.zst", b"\n", b"  "),
        ("q.jsonl.gz", b"\n", b"  "),
        ("q.json.zst", b",", b"[]"),
    ):
        content = ends[:1] + between.join([record] * 250) + ends[1:]
        paths.append(str(tmp_path / name))
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else zstandard.compress(content))
    assert max(map(os.path.getsize, paths)) < 64 * 2**10
    lines, grown = read_apart("questions", paths)
    assert len(lines) == len(paths) and grown < 160
    assert all(":" in each and "a decompression bomb" in each and "split it" in each for each in lines)


def test_a_repetitive_file_that_is_no_bomb_is_read(tmp_path):
    path = str(tmp_path / "q.parquet")
    rows = [{"question": f"{i}?", "answer": ["a"], "context": "long " * 2000, "score": None} for i in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [row.values for row in read_rows(path)] == rows


@pytest.mark.parametrize("name", ["shard.jsonl.gz", "shard.ndjson.GZ", "shard.json.gz", "shard.json.zst"])
def test_other_compressed_shards_are_read(tmp_path, name):
    content = b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}\n'
    whole = (
        zstandard.compress(content)
        if name.endswith("zst")
        else gzip.compress(content[:20]) + gzip.compress(content[20:])
    )
    (tmp_path / name).write_bytes(whole)
    assert [document.text for document in read_documents(str(tmp_path / name))] == ["a", "b"]


def test_a_truncated_or_corrupted_gzip_is_refused_wherever_the_fault_is(tmp_path):
    content = gzip.compress(b"".join(b'{"text": "%s"}\n' % os.urandom(16).hex().encode() for _ in range(200)), mtime=0)
    path = tmp_path / "shard.jsonl.gz"
    path.write_bytes(content)
    whole, refused = list(read_documents(str(path))), 0
    for size in [*range(0, len(content), 97), *range(len(content) - 8, len(content))]:
        path.write_bytes(content[:size])
        with pytest.raises(ShardError, match=r"shard\.jsonl\.gz:\d+: .*(again|Compress it)"):
            list(read_documents(str(path)))
    places = range(10, len(content), 41)
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        try:
            assert list(read_documents(str(path))) == whole  # occasionally it is a bit of padding
        except ShardError:
            refused += 1
    assert refused > 0.9 * len(places)


@pytest.mark.parametrize("suffix", ["zst", "gz"])
def test_plain_text_under_a_compressed_name_is_reported(tmp_path, suffix):
    path = tmp_path / f"q.jsonl.{suffix}"
    path.write_text('{"text": "a"}\n')
    for read in (read_documents, read_lines, read_rows):
        with pytest.raises(ShardError, match="remove the last suffix of its name"):
            list(read(str(path)))


@pytest.mark.parametrize("name", ["q.jsonl.zst", "q.json.zst"])
def test_a_window_that_is_too_large_is_reported_with_the_remedy(tmp_path, name):
    options = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=options).compressobj()
    whole = frame.compress(b'{"text": "a"}\n') + frame.flush()
    assert zstandard.get_frame_parameters(whole).window_size == 2**28
    path = tmp_path / name
    for content in (whole, zstandard.compress(b'{"text": "a"}\n') + whole):
        path.write_bytes(content)
        for read in (read_documents, read_rows):
            with pytest.raises(ShardError, match="window is larger than 128 MiB.*without --long") as refused:
                list(read(str(path)))
            assert "again" not in str(refused.value).replace("compress it again", "")


def test_a_folder_in_place_of_a_file_is_reported(tmp_path):
    (tmp_path / "q.jsonl").mkdir()
    for read in (read_documents, read_rows):
        with pytest.raises(ShardError, match="is a folder"):
            list(read(str(tmp_path / "q.jsonl")))
