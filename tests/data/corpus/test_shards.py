import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from memlm.data.corpus.accounting import Accounting
from memlm.data.corpus.records import TOO_LONG
from memlm.data.corpus.shards import (
    MAX_LINE_BYTES,
    Document,
    ShardError,
    read_documents,
    read_lines,
    write_shard,
)
from memlm.data.folders import list_shards

RECORDS = [{"text": "première"}, {"text": ""}, {"text": "two\nlines", "url": "u"}]
DOCUMENTS = [Document(1, "première"), Document(3, "two\nlines")]  # an empty text is not a document


def write_parquet(path, texts):
    pq.write_table(pa.table({"text": pa.array(texts)}), path)


@pytest.mark.parametrize("suffix", [".jsonl.zst", ".jsonl.zstd", ".jsonl", ".parquet", ".ndjson.zst", ".JSONL.ZST"])
def test_every_format_gives_the_same_documents(tmp_path, suffix):
    path = str(tmp_path / f"shard{suffix}")
    if suffix == ".parquet":
        write_parquet(path, [record["text"] for record in RECORDS])
    else:
        write_shard(path, RECORDS)
    assert list(read_documents(path)) == DOCUMENTS


def test_parquet_rows_are_numbered_across_batches(tmp_path):
    path = str(tmp_path / "shard.parquet")
    write_parquet(path, [f"text {i}" for i in range(1000)])
    assert list(read_documents(path)) == [Document(i + 1, f"text {i}") for i in range(1000)]


def test_several_frames_are_one_file(tmp_path):
    path = tmp_path / "shard.jsonl.zst"
    frames = [zstandard.compress(b'{"text": "a"}\n{"te'), zstandard.compress(b'xt": "b"}\n')]
    path.write_bytes(b"".join(frames))
    assert [document.text for document in read_documents(str(path))] == ["a", "b"]


def test_other_text_field_blank_lines_and_windows_line_ends(tmp_path):
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b'{"body": "a"}\r\n\r\n{"body": "b"}')
    assert list(read_documents(str(path), text_field="body")) == [Document(1, "a"), Document(3, "b")]


def test_a_truncated_frame_is_refused_wherever_it_is_cut(tmp_path):
    """zstandard's own stream reader would end such a file like a complete one, with some documents
    missing."""
    whole = tmp_path / "whole.jsonl.zst"
    write_shard(str(whole), ({"text": f"document {i} {os.urandom(16).hex()}"} for i in range(300)))
    content = whole.read_bytes()
    cut = tmp_path / "cut.jsonl.zst"
    for size in [*range(0, len(content), 97), *range(len(content) - 8, len(content))]:
        cut.write_bytes(content[:size])
        with pytest.raises(ShardError, match=r"cut\.jsonl\.zst:\d+: "):
            list(read_documents(str(cut)))


def test_a_flipped_bit_in_a_written_shard_is_detected(tmp_path):
    path = tmp_path / "shard.jsonl.zst"
    write_shard(str(path), ({"text": f"document {i} {os.urandom(16).hex()}"} for i in range(100)))
    content, whole, refused = path.read_bytes(), list(read_documents(str(path))), 0
    places = range(0, len(content), 41)
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        try:
            assert list(read_documents(str(path))) == whole  # occasionally it is a bit of padding
        except ShardError:
            refused += 1
    assert refused > 0.9 * len(places)


def test_written_frames_carry_checksum_and_size(tmp_path):
    path = tmp_path / "shard.jsonl.zst"
    write_shard(str(path), RECORDS)
    frame = zstandard.get_frame_parameters(path.read_bytes())
    expected_size = sum(len(json.dumps(record, ensure_ascii=False).encode()) + 1 for record in RECORDS)
    assert frame.has_checksum and frame.content_size == expected_size


def test_garbage_after_a_complete_frame_is_refused(tmp_path):
    path = tmp_path / "shard.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "a"}\n') + b"garbage")
    with pytest.raises(ShardError, match="truncated or damaged"):
        list(read_documents(str(path)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'\xef\xbb\xbf{"text": "a"}', "byte order mark that is not at the start"),
        (b"[" * 200_000, "too deep"),
        (b'{"text": "a", "text": "b"}', "duplicate keys"),
        (b'{"text": "a", "score": NaN}', "not finite"),
        (b'{"text": "a", "score": [-Infinity]}', "not finite"),
        (b'{"text": "a\\u0000b"}', "NUL in text"),
        (b'["text"]', "not an object"),
        (b'{"title": "a"}', r"no field 'text' \(there are: title\)"),
        (b'{"text": null}', "is null, not a string"),
        (b'{"text": 5}', "is a number, not a string"),
        (b'{"text": "\\ud800"}', "not valid Unicode"),
    ],
)
def test_a_bad_line_is_reported_with_file_line_and_reason(tmp_path, line, reason):
    path = tmp_path / "shard.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    documents = read_documents(str(path))
    assert next(documents).text == "good"
    with pytest.raises(ShardError, match=rf"shard\.jsonl:2: .*{reason}"):
        next(documents)


def test_a_line_beyond_the_limit_is_refused_or_skipped(tmp_path):
    path = tmp_path / "shard.jsonl.zst"
    good = b'{"text": "a"}\n'
    path.write_bytes(zstandard.compress(good + b" " * (2 * MAX_LINE_BYTES + 1) + b"\n" + good))
    for read in (read_documents, read_lines):
        with pytest.raises(ShardError, match=r":2: the line is longer than"):
            list(read(str(path)))
    accounting = Accounting()
    assert [one.line for one in read_documents(str(path), accounting=accounting)] == [1, 3]
    assert accounting.malformed == {TOO_LONG: 1} and accounting.lines == 3


def test_a_decompression_bomb_is_refused_in_bounded_memory(tmp_path):
    """A bomb of many short lines: 1 GiB from 100 KB."""
    path = tmp_path / "shard.jsonl.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    line = b'{"text": "' + b"a" * (2**16 - 13) + b'"}\n'
    with path.open("wb") as file:
        for _ in range(2**30 // len(line)):
            file.write(compressor.compress(line))
        file.write(compressor.flush())
    assert path.stat().st_size < 2**18
    with pytest.raises(ShardError, match=r"a decompression bomb: its content exceeds 268435456 bytes") as refused:
        sum(len(line) for _, line in read_lines(str(path)))
    assert int(re.search(r":(\d+): a decomp", str(refused.value))[1]) == 2**28 // 2**16 + 1


def test_a_frame_with_a_huge_window_is_refused(tmp_path):
    path = tmp_path / "shard.jsonl.zst"
    # magic, then a frame header that requests a 1 GiB window (2 ** 30), then an empty last block
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00")
    with pytest.raises(ShardError, match=r":1: its zstd window is larger than 128 MiB.*without --long"):
        list(read_documents(str(path)))


@pytest.mark.parametrize("content", [b"", b'{"text": "plain"}\n', b"\x1f\x8b\x08\x00gzip"])
def test_a_file_that_is_not_zstd_is_refused(tmp_path, content):
    path = tmp_path / "shard.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(ShardError, match="not zstd"):
        list(read_documents(str(path)))


def test_bad_parquet_is_refused(tmp_path):
    path = tmp_path / "shard.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(ShardError, match="not Parquet"):
        list(read_documents(str(path)))
    write_parquet(path, ["a", None])
    with pytest.raises(ShardError, match=r"parquet:2: field 'text' is null"):
        list(read_documents(str(path)))
    with pytest.raises(ShardError, match=r"no field 'body' \(there are: text\)"):
        list(read_documents(str(path), text_field="body"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ShardError, match="not Parquet"):
        list(read_documents(str(path)))


def test_reading_or_writing_an_unknown_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ShardError, match="not a supported kind of file"):
        list(read_documents(str(tmp_path / "a.txt")))
    with pytest.raises(ShardError, match="does not exist"):
        list(read_documents(str(tmp_path / "a.jsonl")))
    with pytest.raises(ShardError, match="unknown suffix"):
        write_shard(str(tmp_path / "a.parquet"), RECORDS)


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="MEMLM_DATA, the folder of real files, is not set")
def test_the_real_dclm_layout_is_read_completely():
    shards = list_shards(os.path.join(os.environ["MEMLM_DATA"], "text", "dclm_layout_fixture"), report=print)
    documents = [document for shard in shards for document in read_documents(shard)]
    assert len(shards) == 2 and len(documents) == 330
    assert all(document.text for document in documents)
