import datetime
import gzip
import json
import logging
import os
import subprocess
import sys
import time

import boto3
import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from moto.server import ThreadedMotoServer

from memlm.data.config import QuestionSetConfig
from memlm.data.corpus.shards import ShardError
from memlm.data.questions.facts import Fact, FactError, read_facts
from memlm.data.questions.questions import read_set
from memlm.data.questions.records import Question, QuestionError
from memlm.data.questions.sources import Malformed, Row, read_rows, source_content
from memlm.storage import StorageError

RECORDS = [{"question": "Where?", "answer": ["Bern", "Berne"]}, {"question": "Où, là?", "answer": ["Zürich"]}]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
COMMIT = "0123456789" * 4


def write(path, name):
    """The records as a file of the kind given by its name."""
    file = path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(RECORDS), file)
    elif name.endswith(".json"):
        file.write_text(json.dumps(RECORDS))
    else:
        content = LINES.encode()
        file.write_bytes(content if name.endswith(".jsonl") else zstandard.compress(content))
    return str(file)


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.zst", "q.jsonl.zstd", "q.json", "q.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    path = write(tmp_path, name)
    assert list(read_rows(path)) == [Row(path, number, record) for number, record in enumerate(RECORDS, start=1)]


def test_csv_rows_are_numbered_by_the_line_they_begin_on(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('\ufeffproblem,answer\n"Two\nlines?",a\nOne?,"b, c"\nshort\nlong,d,e\nLast?,f\n', encoding="utf-8")
    rows = list(read_rows(str(path)))
    assert [(row.line, row.values["problem"]) for row in rows if isinstance(row, Row)] == [
        (2, "Two\nlines?"),
        (4, "One?"),
        (7, "Last?"),
    ]
    assert [row.line for row in rows if isinstance(row, Malformed)] == [5, 6]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.json", "3", "a JSON int, not a list"),
        ("q.json", '{"Data": [{"a": 1}]}', "a list of objects as 'Data'. Store only that list"),
        ("q.jsonl", '\n[\n{"a": 1}\n]', "begins like a JSON list, not with one object per line"),
        ("q.csv", "question;answer\nWho?;Ada\n", "the fields are separated by ';'. Separate them by commas"),
        ("q.csv", "question\tanswer\nWho?\tAda\n", r"the fields are separated by '\\t'"),
        ("q.json", "[1", "not JSON.*ends too early: download"),
        ("q.json", '[{"a": 1}, {"b" 2}]', "not JSON.*Repair it there"),
        ("q.json", "[" * 200_000, "not JSON"),
        ("q.csv", 'a,b\n"open', "q.csv:2: not CSV.*Close the quotes"),
        ("q.csv", "a,b,a\n1,2,3", "q.csv:1: the header names 'a' more than once"),
        ("q.parquet", "PAR1", "not Parquet"),
        ("q.txt", "a", "not a supported kind of question file"),
        ("q.jsonl.zst", "plain", "not zstd"),
    ],
)
def test_damaged_files_stop_at_once(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(ShardError, match=reason):
        list(read_rows(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    for read in (lambda path: list(read_rows(path)), source_content):
        with pytest.raises(ShardError, match=f"{name}: does not exist"):
            read(str(tmp_path / name))


def mixed(tmp_path, *, good=8):
    """Several good lines and two that do not fit: one that is not JSON and one without answers."""
    records = [{"question": f"{number}?", "answer": ["a"]} for number in range(good)]
    lines = [json.dumps(record) for record in records]
    lines[1:1] = ["{broken", json.dumps({"question": "?", "answer": []})]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def test_the_first_malformed_record_is_an_error_by_default(tmp_path):
    with pytest.raises(QuestionError, match=r"mixed\.jsonl:2: not JSON"):
        read_set(QuestionSetConfig(path=mixed(tmp_path), layout="nq_open"))


def test_malformed_records_are_left_out_and_reported_if_the_config_allows_them(tmp_path, caplog):
    source = QuestionSetConfig(path=mixed(tmp_path), layout="nq_open", max_malformed_share=0.2)
    messages: list[str] = []
    assert len(read_set(source, report=messages.append)) == 8
    (message,) = messages
    assert "2 of 10 records do not fit" in message
    assert "mixed.jsonl:2: not JSON" in message and "mixed.jsonl:3: a question without answers" in message
    with caplog.at_level(logging.WARNING):
        read_set(source)
    assert message in caplog.text


def test_too_many_malformed_records_are_refused_with_the_first_few(tmp_path):
    source = QuestionSetConfig(path=mixed(tmp_path), layout="nq_open", max_malformed_share=0.19)
    with pytest.raises(QuestionError, match=r"2 of 10 records do not fit(.|\n)*0\.19(.|\n)*mixed\.jsonl:3: "):
        read_set(source)


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


def test_statements_are_read_from_object_storage(bucket):
    bucket.put_object(Bucket="sets", Key="s.jsonl", Body=b'{"id": "a", "statements": ["A is one."]}\n')
    asked = Question(id="a#0", question="What is A?", answers=("one",), fact="a")
    assert read_facts("s3://sets/s.jsonl", [asked]) == [Fact(id="a", statements=("A is one.",), questions=(asked,))]
    bucket.put_object(Bucket="sets", Key="bad.jsonl", Body=b"\n[]")
    with pytest.raises(FactError, match="^s3://sets/bad.jsonl:2: a JSON list, not an object"):
        read_facts("s3://sets/bad.jsonl", [asked])


def test_sets_are_read_from_object_storage(tmp_path, bucket):
    for name in ("q.jsonl.zst", "q.parquet"):
        bucket.upload_file(write(tmp_path, name), "sets", f"qa/{name}")
        assert [row.values for row in read_rows(f"s3://sets/qa/{name}")] == RECORDS
        assert source_content(f"s3://sets/qa/{name}") == (tmp_path / name).read_bytes()
    bucket.put_object(Bucket="sets", Key="bad.jsonl", Body=b"\n[]")
    with pytest.raises(QuestionError, match=r"^s3://sets/bad\.jsonl:2: a JSON list"):
        read_set(QuestionSetConfig(path="s3://sets/bad.jsonl", layout="nq_open"))
    bucket.put_object(Bucket="sets", Key="cut.parquet", Body=b"PAR1")
    with pytest.raises(ShardError, match=r"^s3://sets/cut\.parquet:1: not Parquet"):
        list(read_rows("s3://sets/cut.parquet"))
    with pytest.raises(StorageError, match=r"s3://sets/none\.jsonl: does not exist"):
        list(read_rows("s3://sets/none.jsonl"))
    with pytest.raises(StorageError, match="must be a local path or s3://"):
        list(read_rows("gs://sets/q.jsonl"))


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("hf://google-research-datasets/nq_open", "missing, so the data may change"),
        ("hf://google-research-datasets/nq_open:validation@main", "'main', which may later refer to other data"),
        ("hf://google-research-datasets/nq_open@abc123", "40 digits of a commit"),
        (f"hf://nq_open@{COMMIT}", "not a hub data set's address"),
    ],
)
def test_a_hub_set_must_be_pinned(uri, reason):
    for read in (lambda uri: list(read_rows(uri)), source_content):
        with pytest.raises(QuestionError, match=reason):
            read(uri)


def hub_of(monkeypatch, loaded):
    """A hub that answers, and the requests it received."""
    asked: list[tuple] = []

    def dataset_info(self, name, *, revision, timeout):
        asked.append((name, revision, timeout))

    def load_dataset(*names, **options):
        asked.append((*names, options))
        return loaded

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("address", "config", "split"),
    [
        ("owner/name/rc.nocontext:validation", "rc.nocontext", "validation"),
        ("owner/name:test", None, "test"),
        ("owner/name", None, None),
    ],
)
def test_a_hub_set_is_loaded_at_its_commit(monkeypatch, address, config, split):
    only = datasets.Dataset.from_list(RECORDS)
    asked = hub_of(monkeypatch, only if split else datasets.DatasetDict(train=only))
    uri = f"hf://{address}@{COMMIT}"
    records = read_set(QuestionSetConfig(path=uri, layout="nq_open"))
    assert records[1] == Question(id="nq_open:2", question="Où, là?", answers=("Zürich",))
    assert asked == [
        ("owner/name", COMMIT, 10),
        ("owner/name", config, {"split": split, "revision": COMMIT, "trust_remote_code": False}),
    ]


def test_a_hub_set_with_several_splits_needs_a_split(monkeypatch):
    only = datasets.Dataset.from_list(RECORDS)
    hub_of(monkeypatch, datasets.DatasetDict(train=only, test=only))
    with pytest.raises(QuestionError, match="has the splits train, test. Name one"):
        list(read_rows(f"hf://owner/name@{COMMIT}"))


def test_a_hub_that_cannot_be_reached_is_one_error_with_the_remedy():
    reading = f"""
from memlm.data.questions.records import QuestionError
from memlm.data.questions.sources import read_rows
import datasets, time
began = time.monotonic()
try:
    list(read_rows("hf://owner/name@{COMMIT}"))
except QuestionError as error:
    print(error)
    print(time.monotonic() - began)
"""
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", reading], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    message, seconds = done.stdout.splitlines()
    assert "could not be loaded from the hub" in message
    assert "Give the path of a local copy instead" in message
    assert float(seconds) < 20 and time.monotonic() - began < 120


@pytest.mark.parametrize("name", ["q.JSONL", "q.ndjson", "q.jsonl.zstd", "q.JSON", "q.json.zst", "q.Parquet"])
def test_upper_case_and_alternative_suffixes_are_read(tmp_path, name):
    found = tmp_path / name
    os.rename(write(tmp_path, name.lower() if name != "q.ndjson" else "q.jsonl"), found)
    assert [row.values for row in read_rows(str(found))] == RECORDS


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_lines_of_json_are_read_under_both_names_with_and_without_a_byte_order_mark(tmp_path, name, bom, end):
    (tmp_path / name).write_text(bom + LINES.rstrip("\n") + end, encoding="utf-8")
    assert list(read_rows(str(tmp_path / name))) == [
        Row(str(tmp_path / name), number, record) for number, record in enumerate(RECORDS, start=1)
    ]


def test_a_list_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "q.json").write_text("\ufeff\n" + json.dumps(RECORDS, indent=1), encoding="utf-8")
    assert [row.values for row in read_rows(str(tmp_path / "q.json"))] == RECORDS


def test_a_bad_line_in_a_json_file_has_its_number(tmp_path):
    (tmp_path / "q.json").write_text('{"a": 1}\n\n{broken\n{"b": 2}\n')
    rows = list(read_rows(str(tmp_path / "q.json")))
    assert [(type(row), row.line) for row in rows] == [(Row, 1), (Malformed, 3), (Row, 4)]


@pytest.mark.parametrize(
    ("name", "content"), [("q.json", '[{"a": "\xe9"}]'), ("q.csv", "a\ncaf\xe9\n"), ("q.jsonl", '{"a": "\xe9"}')]
)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_reported_as_such(tmp_path, name, content, encoding):
    (tmp_path / name).write_bytes(content.encode(encoding))
    try:
        (message,) = (str(row) for row in read_rows(str(tmp_path / name)))
    except ShardError as error:
        message = str(error)
    assert "not UTF-8" in message and "as UTF-8" in message and "again" not in message


def test_a_long_csv_field_is_read_and_one_beyond_the_limit_is_reported(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text(f'question,answer\n"{"long, " * 50_000}",a\n')
    assert [len(row.values["question"]) for row in read_rows(str(path))] == [300_000]
    path.write_text(f"question,answer\nshort,b\n{'x' * (16 * 2**20 + 1)},a\n")
    with pytest.raises(ShardError, match=r"q\.csv:3: not CSV \(field larger than field limit.*keep each field below"):
        list(read_rows(str(path)))


def test_parquet_columns_of_every_kind_are_read_as_written(tmp_path):
    path, moment = str(tmp_path / "q.parquet"), datetime.datetime(2020, 1, 2)
    rows = [
        {
            "question": "a?",
            "answer": {"value": "b", "aliases": ["c", None]},
            "when": moment,
            "n": [1.5],
            "m": b"\x00",
            "kind": "x",
        },
        {"question": "d?", "answer": None, "when": None, "n": None, "m": None, "kind": "x"},
    ]
    table = pa.Table.from_pylist(rows)
    table = table.set_column(5, "kind", table["kind"].dictionary_encode())
    pq.write_table(table, path)
    assert [row.values for row in read_rows(path)] == rows


@pytest.mark.parametrize("content", ['{"a": 1}', '{"a": 1}\n', '\ufeff{\n "a": 1\n}'])
def test_a_single_record_in_a_json_file_is_read(tmp_path, content):
    (tmp_path / "q.json").write_text(content, encoding="utf-8")
    assert [row.values for row in read_rows(str(tmp_path / "q.json"))] == [{"a": 1}]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16()])
def test_a_narrow_parquet_float_is_read_with_its_shortest_digits(tmp_path, kind):
    numbers = pa.array([3.14, None, 1990.0], pa.float32()).cast(kind)
    pq.write_table(pa.table({"a": numbers}), tmp_path / "q.parquet")
    assert [row.values["a"] for row in read_rows(str(tmp_path / "q.parquet"))] == [3.14, None, 1990.0]


@pytest.mark.parametrize(
    "name, start, part, count",
    [
        ("q.json.gz", b"[", b"{},", 3_000_000),
        ("q.json.gz", b"[", b"1,", 10_000_000),
        ("q.jsonl.gz", b"", b'{"question": "a", "answer": "b"}\n', 500_000),
    ],
)
def test_a_small_file_of_millions_of_small_records_is_refused(tmp_path, name, start, part, count):
    """They take twenty times their bytes in memory, although the file's content is smaller than the
    limit on bytes."""
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(start + part * count)
    with pytest.raises(ShardError, match="a decompression bomb"):
        for _ in read_rows(str(tmp_path / name)):
            pass
