import json
import pickle
from collections import Counter

import pytest

from memlm.data.corpus.accounting import (
    BLANK_LINE,
    EMPTY_TEXT,
    MAX_SAMPLES,
    Accounting,
    AccountingError,
    TooManyMalformed,
    total,
)
from memlm.data.corpus.records import DUPLICATE_KEYS, NOT_JSON, NOT_UTF8, NUL, TOO_DEEP
from memlm.data.corpus.shards import read_documents
from tests.data.corpus.shard_mutants import GROWTH_BYTES, compare

LINES = [
    b'\xef\xbb\xbf{"text": "after a byte order mark"}\r\n',
    b"\r\n",
    b'{"text": " \\u00a0"}\n',
    b'{"text": "good"}\n',
    b'{"text": "\xff"}\n',
    b'{"text": "cut off\n',
    b'{"text": "[[[", "deep": ' + b"[" * 65 + b"]" * 65 + b"}\n",
    b'{"text": "' + b"[" * 65 + b'", "deep": ' + b"[" * 63 + b"]" * 63 + b"}\n",
    b'{"text": "a", "metadata": {"k": 1, "k": 2}}\n',
    b'{"text": "a\\u0000b"}\n',
    b'{"text": "huge", "number": ' + b"9" * 10_000 + b"}",
]


def test_every_line_is_counted_once(tmp_path):
    path, accounting = tmp_path / "shard.jsonl", Accounting()
    path.write_bytes(b"".join(LINES))
    documents = list(read_documents(str(path), accounting=accounting))
    assert [document.line for document in documents] == [1, 4, 8, 11]
    assert accounting.to_json() == {
        "lines": 11,
        "kept": 4,
        "dropped": {BLANK_LINE: 1, EMPTY_TEXT: 1},
        "malformed": {NOT_UTF8: 1, NOT_JSON: 1, TOO_DEEP: 1, DUPLICATE_KEYS: 1, NUL: 1},
        "samples": [
            "5: not UTF-8 (invalid start byte at byte 10)",
            "6: not JSON (Invalid control character at: line 1 column 18 (char 17))",
            "7: too deep (more than 64 nested brackets)",
            "9: duplicate keys",
            "10: NUL in text",
        ],
    }
    accounting.check("shard")
    assert Accounting.from_json(json.loads(json.dumps(accounting.to_json()))) == accounting


def test_an_uncounted_line_is_detected():
    with pytest.raises(
        AccountingError, match="a.jsonl: 3 lines were read, but 1 kept \\+ 0 dropped \\+ 1 malformed are 2"
    ):
        Accounting(lines=3, kept=1, malformed=Counter({NOT_JSON: 1})).check("a.jsonl")


@pytest.mark.parametrize("limit, refused", [(0.0, True), (0.0099, True), (0.01, False), (0.5, False)])
def test_the_malformed_share_has_a_limit(limit, refused):
    accounting = Accounting(
        lines=200, kept=198, malformed=Counter({NOT_JSON: 2}), samples=["7: not JSON", "9: not JSON"]
    )
    if not refused:
        accounting.require_few_malformed("s3://b/a.jsonl", limit)
        return
    with pytest.raises(TooManyMalformed) as error:
        accounting.require_few_malformed("s3://b/a.jsonl", limit)
    assert "s3://b/a.jsonl: 2 of 200 lines (1.000%) are malformed (2 not JSON)" in str(error.value)
    assert "the first is s3://b/a.jsonl:7: not JSON. Repair or remove" in str(error.value)
    sent = pickle.loads(pickle.dumps(error.value))
    assert sent.samples == ["s3://b/a.jsonl:7: not JSON", "s3://b/a.jsonl:9: not JSON"] and sent.share == 0.01
    assert str(sent) == str(error.value)


def test_samples_are_few_and_named_by_shard_in_the_total():
    parts = {}
    for name in "ab":
        parts[name] = Accounting(lines=1, kept=1)
        for line in range(2, 72):
            parts[name].leave_out(NOT_JSON, f"{line}: not JSON")
    whole = total(parts)
    assert (whole.lines, whole.kept, whole.num_malformed, len(whole.samples)) == (142, 2, 140, MAX_SAMPLES)
    assert (whole.samples[0], whole.samples[70]) == ("a:2: not JSON", "b:2: not JSON")
    for line in range(1000):
        parts["a"].leave_out(NUL, f"{line}: NUL")
    assert len(parts["a"].samples) == MAX_SAMPLES


def test_a_sample_contains_no_text(tmp_path):
    path, accounting = tmp_path / "shard.jsonl", Accounting()
    secret = "the secret of the text"
    path.write_text(
        f'{{"body": "{secret}"}}\n{{"text": "{secret}\n{{"text": ["{secret}"]}}\n{{"text": "{secret}\\ud800"}}\n'
    )
    assert list(read_documents(str(path), accounting=accounting)) == [] and len(accounting.samples) == 4
    assert secret not in "".join(accounting.samples)


def test_mutated_shards_are_read_as_a_plain_reader_reads_them():
    found = compare(7, 0, 150)
    assert (found.tries, found.differences, found.failed) == (150, [], "")
    assert min(found.outcomes.values()) > 30 and found.growth_bytes < GROWTH_BYTES
