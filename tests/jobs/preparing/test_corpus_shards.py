"""Corpora on S3, sampled corpora, and corpora with unreadable shards."""

import json
import logging
import os
import sys
from pathlib import Path

import boto3
import pytest
import zstandard
from moto.server import ThreadedMotoServer

from memlm import storage
from memlm.data.corpus.shards import ShardError, write_shard
from memlm.jobs import prepare_corpus
from memlm.jobs.preparing.corpus_shards import choose_shards
from tests.jobs.running import Ended, artifacts_in, refused, run_command, said_with, smoke, the_error_line

WHOLE = [{"text": f"{number} plus {number} equals {2 * number}. " * 5} for number in range(2000)]


def content(records: list[dict[str, str]], *, broken: int = 0) -> bytes:
    """Compressed shard with truncated lines."""
    lines = [json.dumps(record) for record in records]
    for number in range(broken):
        lines[7 * number + 6] = lines[7 * number + 6][:-2]
    return zstandard.ZstdCompressor(write_checksum=True).compress("\n".join(lines).encode())


def accounting(run: Path) -> dict:
    return json.loads((run / "corpus" / "accounting.json").read_text())


@pytest.mark.ray
def test_unreadable_lines_and_shards_are_left_out_within_limits_and_accounted_for(tmp_path, capfd, cluster):
    corpus = tmp_path / "corpus"
    (corpus / "x").mkdir(parents=True)
    (corpus / "x" / "c.jsonl.zst").write_bytes(content([*WHOLE, {"text": " "}]))
    (corpus / "b.jsonl.zst").write_bytes(content(WHOLE, broken=2))
    (corpus / "a.jsonl.zst").write_bytes(content(WHOLE)[:-20])
    config = smoke(tmp_path / "runs", "--corpus.path", str(corpus), "--corpus.max-quarantined-share", "0.3")
    prepare_corpus.run(config)
    found = accounting(tmp_path / "runs" / "smoke")
    assert found["shards"]["x/c.jsonl.zst"] == {
        "lines": 2001,
        "kept": 2000,
        "dropped": {"empty text": 1},
        "malformed": {},
    }
    assert found["shards"]["b.jsonl.zst"] == {"lines": 2000, "kept": 1998, "dropped": {}, "malformed": {"not JSON": 2}}
    assert (
        list(found["quarantined"]) == ["a.jsonl.zst"] and "truncated or damaged" in found["quarantined"]["a.jsonl.zst"]
    )
    whole = found["total"]
    assert whole["lines"] == whole["kept"] + sum(whole["dropped"].values()) + sum(whole["malformed"].values())
    assert [sample.split(" (")[0] for sample in whole["samples"]] == [
        "b.jsonl.zst:7: not JSON",
        "b.jsonl.zst:14: not JSON",
    ]
    said = capfd.readouterr().out
    tokenizer = storage.read_manifest(str(tmp_path / "runs" / "smoke" / "tokenizer"))
    assert tokenizer.details["trained_on"]["shard"] == "b.jsonl.zst"
    assert f"tokenizer: not trained on a shard that cannot be read: {corpus}/a.jsonl.zst:" in said
    assert "left out: b.jsonl.zst:14: not JSON" in said and f"quarantined: {corpus}/a.jsonl.zst:" in said
    assert "1 dropped (1 empty text), 2 malformed and left out (2 not JSON)" in said
    # Made again under a stricter limit, from the existing parts.
    for option, share in (("--corpus.max-malformed-share", "0.0009"), ("--corpus.max-quarantined-share", "0.2")):
        strict = smoke(tmp_path / "runs", *config.arguments[2:], option, share)
        assert f"corpus.max_{option[13:].replace('-', '_')} is" in refused(capfd, prepare_corpus.run, strict)
    storage.delete(str(tmp_path / "runs" / "smoke" / "corpus"))
    strict = smoke(tmp_path / "runs", *config.arguments[2:], "--corpus.max-malformed-share", "0.0009")
    line = refused(capfd, prepare_corpus.run, strict)
    assert (
        "2 of 4 shards are in quarantine, more than corpus.max_quarantined_share (30.000%) allows; the last: " in line
    )
    strict = smoke(tmp_path / "runs", *config.arguments[2:], "--corpus.max-quarantined-share", "0")
    assert f"{corpus}/a.jsonl.zst:" in refused(capfd, prepare_corpus.run, strict)


@pytest.mark.ray
def test_a_shard_with_too_many_malformed_lines_is_quarantined_like_an_unreadable_one(tmp_path, capfd, cluster):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl.zst").write_bytes(content(WHOLE))
    (corpus / "b.jsonl.zst").write_bytes(content(WHOLE, broken=3))
    options = ("--corpus.path", str(corpus))
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path / "runs", *options))
    assert f"{corpus}/b.jsonl.zst: 3 of 2000 lines (0.150%) are malformed (3 not JSON)" in line
    options = (*options, "--corpus.max-quarantined-share", "0.4")
    prepare_corpus.run(smoke(tmp_path / "runs", *options))
    said = said_with(capfd, f"malformed: {corpus}/b.jsonl.zst:21: not JSON")
    assert f"malformed: {corpus}/b.jsonl.zst:21: not JSON" in said
    assert f"quarantined: {corpus}/b.jsonl.zst: 3 of 2000 lines" in said
    found = accounting(tmp_path / "runs" / "smoke")
    assert list(found["quarantined"]) == ["b.jsonl.zst"] and "b.jsonl.zst" not in found["shards"]
    whole = found["total"]
    assert whole["lines"] == whole["kept"] and whole["malformed"] == {}
    assert whole["lines"] == sum(shard["lines"] for shard in found["shards"].values())
    # Under this limit the corpus includes the shard.
    lax = smoke(tmp_path / "runs", *options, "--corpus.max-malformed-share", "0.002")
    line = refused(capfd, prepare_corpus.run, lax)
    assert "was made without a shard with a malformed_share of 0.150%, and corpus.max_malformed_share is 0.200%" in line
    storage.delete(str(tmp_path / "runs" / "smoke" / "corpus"))
    prepare_corpus.run(lax)
    assert accounting(tmp_path / "runs" / "smoke")["shards"]["b.jsonl.zst"]["malformed"] == {"not JSON": 3}


def test_a_sample_is_taken_by_fraction_and_by_number(tmp_path):
    for number in range(40):
        write_shard(f"{tmp_path}/corpus/{number:02}.jsonl", WHOLE[:1])
    options = ["--corpus.path", f"{tmp_path}/corpus", "--corpus.validation-path", ""]

    def names(*more: str) -> tuple[list[str], list[str]]:
        train, validation = choose_shards(smoke(tmp_path / "runs", *options, *more), None)
        return [shard.name for shard in train], [shard.name for shard in validation]

    every, last = names()
    assert len(every) == 39 and last == ["39.jsonl"]
    half, same_last = names("--corpus.fraction", "0.5")
    quarter, _ = names("--corpus.fraction", "0.25")
    assert set(quarter) < set(half) < set(every) and same_last == last
    assert names("--corpus.fraction", "0.5", "--corpus.max-shards", "3")[0] == half[:3]
    with pytest.raises(ShardError, match="corpus.fraction is 1e-09, .* selects none of 39 shards; raise it"):
        names("--corpus.fraction", "1e-9")


# On S3.


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
    client.create_bucket(Bucket="text")
    yield client
    server.stop()


def test_a_listing_is_made_once_and_names_its_address(bucket, tmp_path, capfd):
    for key in ("one/a.jsonl", "one/b.jsonl", "two/a.jsonl"):
        bucket.put_object(Bucket="text", Key=key, Body=b'{"text": "a"}\n')
    options = ["--corpus.validation-path", ""]
    config = smoke(tmp_path, *options, "--corpus.path", "s3://text/one")
    assert choose_shards(config, None, keep=False) == choose_shards(config, None)
    assert artifacts_in(tmp_path) == {"smoke/listing-train"}
    bucket.put_object(Bucket="text", Key="one/c.jsonl", Body=b'{"text": "new"}\n')
    assert [shard.name for shard in choose_shards(config, None)[1]] == ["b.jsonl"]
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path, *options, "--corpus.path", "s3://text/two"))
    assert "listing-train was made with corpus.path = 's3://text/one', and now corpus.path = 's3://text/two'" in line
    pinned = f"hf://datasets/own/set@{'b' * 40}"
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path, *options, "--corpus.path", pinned))
    assert f"and now corpus.path = '{pinned}' is asked for; give another --run-name" in line


@pytest.mark.ray
def test_a_corpus_is_read_from_a_store_and_written_to_one(s3_server, cluster, monkeypatch, tmp_path):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    for bucket in ("text", "runs"):
        client.create_bucket(Bucket=bucket)
    for name in "abc":
        client.put_object(Bucket="text", Key=f"dclm/{name}.jsonl.zst", Body=content(WHOLE[:300]))
    options = ("--tracking", "off", "--corpus.path", "s3://text/dclm", "--corpus.validation-path", "")
    corpus = prepare_corpus.run(smoke("s3://runs/all", *options))
    assert corpus == "s3://runs/all/smoke/corpus"
    found = json.loads((storage.open_artifact(corpus) / "accounting.json").read_text())
    assert found["total"]["kept"] == 900 and len(found["shards"]) == 3


@pytest.mark.slow
@pytest.mark.ray
def test_a_corpus_on_s3_is_packed_one_shard_at_a_time_and_a_changed_shard_is_refused(bucket, tmp_path):
    for name in "abc":
        bucket.put_object(Bucket="text", Key=f"dclm/x/{name}.jsonl.zst", Body=content(WHOLE[:300]))
    places = {
        "TMPDIR": str(tmp_path / "temporary"),
        "RAY_TMPDIR": "/tmp",
        "MEMLM_DATA": os.environ.get("MEMLM_DATA", ""),
    }
    (tmp_path / "temporary").mkdir()
    options = [
        "smoke",
        "--storage",
        str(tmp_path / "runs"),
        "--corpus.path",
        "s3://text/dclm",
        "--corpus.validation-path",
        "",
    ]

    def prepare(*more: str) -> Ended:
        return run_command(sys.executable, "pipelines/prepare_corpus.py", *options, *more, **places)

    choose_shards(smoke(tmp_path / "runs", *options[3:]), None)
    bucket.put_object(Bucket="text", Key="dclm/x/b.jsonl.zst", Body=content(WHOLE[:299]))
    ended = prepare("--corpus.max-quarantined-share", "0.9")
    line = the_error_line(ended.code, ended.out, ended.err)
    assert "s3://text/dclm/x/b.jsonl.zst: changed since it was listed" in line
    bucket.put_object(Bucket="text", Key="dclm/x/b.jsonl.zst", Body=content(WHOLE[:300]))
    ended = prepare()
    assert ended.code == 0, ended.err
    found = accounting(tmp_path / "runs" / "smoke")
    assert found["total"]["kept"] >= 900 and set("abc") <= {Path(name).name[0] for name in found["shards"]}
    # Those of workers killed when the run was refused are gone too.
    assert [path for path in (tmp_path / "temporary").iterdir() if "memlm-" in path.name] == []


def test_linked_shards_are_chosen_and_other_files_are_reported(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    for name in ("corpus/a.jsonl", "corpus/.ipynb_checkpoints/a-checkpoint.jsonl", "corpus/notes.txt", "disk/b.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "a"}\n')
    (corpus / "disk").symlink_to("../disk")
    config = smoke(tmp_path / "runs", "--corpus.path", str(corpus), "--corpus.validation-path", "")
    train, validation = choose_shards(config, None)
    assert [shard.name for shard in [*train, *validation]] == ["a.jsonl", "disk/b.jsonl"]
    said = capsys.readouterr().out
    assert f"corpus.path: {corpus}: left out 1 (hidden, or a system folder): '.ipynb_checkpoints/'" in said
    assert "left out 1 (not a supported kind of file): 'notes.txt'" in said
