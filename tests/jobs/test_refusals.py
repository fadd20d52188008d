"""Mistakes of users: each is reported on one clear line with the remedy, before work is lost, and
never as a traceback."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from ray._private.utils import validate_socket_filepath

from memlm import storage
from memlm.data.corpus.shards import write_shard
from memlm.jobs import count_accesses, evaluate, finetune, pareto_sweep, prepare_corpus, pretrain
from memlm.jobs.on_ray.cluster import starting
from memlm.results.scores import ScoreError
from memlm.run import RunError
from memlm.training.patch import apply_patch
from tests.jobs.running import artifacts_in, refused, run_pipeline, smoke, the_error_line
from tune_spaces import load_spaces

ray = pytest.mark.ray
WHOLE = [{"text": f"{number} plus {number} equals {2 * number}. " * 20} for number in range(200)]


def sweep(config) -> str:
    return pareto_sweep.run(config, load_spaces(config.sweep.methods, config.sweep.scale))


def cut_off(path: Path) -> None:
    write_shard(f"{path}.jsonl.zst", WHOLE)
    whole = Path(f"{path}.jsonl.zst").read_bytes()
    Path(f"{path}.jsonl.zst").write_bytes(whole[: len(whole) // 2])


def plain_text_called_zstd(path: Path) -> None:
    Path(f"{path}.jsonl.zst").write_text("".join(json.dumps(record) + "\n" for record in WHOLE))


def not_json(path: Path) -> None:
    lines = [json.dumps(record) for record in WHOLE]
    lines[6] = lines[6][:-2]
    Path(f"{path}.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))


def without_text(path: Path) -> None:
    write_shard(f"{path}.jsonl.zst", [*WHOLE[:6], {"url": "http://a.b", "body": "x"}, *WHOLE[6:]])


def empty(path: Path) -> None:
    write_shard(f"{path}.jsonl", [])


@ray
def test_a_set_too_small_to_choose_settings_by_is_refused_before_pretraining(tmp_path, cluster):
    config = smoke(tmp_path, "--tracking", "off", "--world.num-questions", "2", "--sweep.tuning-seeds", "8")
    with pytest.raises(ScoreError, match="has 2 items, of which none is left to choose settings by"):
        sweep(config)
    assert not list((tmp_path / "smoke").glob("checkpoint-*"))


BAD_SHARDS = [
    (cut_off, "truncated or damaged", "Download or write the file again"),
    (plain_text_called_zstd, ":1: not zstd", "remove the last suffix of its name"),
    (not_json, "1 of 200 lines (0.500%) are malformed (1 not JSON)", ".jsonl.zst:7: not JSON ("),
    (without_text, "the first is", ":7: no field 'text' (there are: body, url). Repair or remove these lines"),
]


@ray
@pytest.mark.parametrize("make, reason, remedy", BAD_SHARDS, ids=[make.__name__ for make, _, _ in BAD_SHARDS])
@pytest.mark.parametrize("place", ["first", "second"])
def test_a_bad_shard_is_named_with_line_reason_and_remedy(tmp_path, capfd, cluster, make, reason, remedy, place):
    """The first shard is read for the tokenizer, the second only in packing."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    bad, good = ("a", "b") if place == "first" else ("b", "a")
    write_shard(f"{corpus}/{good}.jsonl.zst", WHOLE)
    make(corpus / bad)
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path / "runs", "--corpus.path", str(corpus)))
    assert f"{corpus}/{bad}.jsonl.zst:" in line and reason in line and remedy in line
    assert "smoke/corpus" not in artifacts_in(tmp_path / "runs")


@ray
def test_after_a_bad_shard_is_repaired_the_same_command_continues(tmp_path, capfd, cluster):
    corpus, config = tmp_path / "corpus", smoke(tmp_path / "runs", "--corpus.path", str(tmp_path / "corpus"))
    corpus.mkdir()
    write_shard(f"{corpus}/a.jsonl.zst", WHOLE)
    cut_off(corpus / "b")
    refused(capfd, prepare_corpus.run, config)
    write_shard(f"{corpus}/b.jsonl.zst", WHOLE)
    assert storage.has_artifact(prepare_corpus.run(config))


@pytest.mark.slow
@ray
def test_from_the_shell_the_error_is_the_last_word(tmp_path):
    (tmp_path / "corpus").mkdir()
    write_shard(f"{tmp_path}/corpus/a.jsonl.zst", WHOLE)
    without_text(tmp_path / "corpus" / "b")
    ended = run_pipeline(
        "prepare_corpus", "smoke", "--storage", str(tmp_path / "runs"), "--corpus.path", f"{tmp_path}/corpus"
    )
    assert "b.jsonl.zst:7: no field 'text'" in the_error_line(ended.code, ended.out, ended.err)


@ray
@pytest.mark.parametrize("place", ["first", "second"])
def test_a_shard_without_documents_is_refused(tmp_path, capfd, cluster, place):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    bad, good = ("a", "b") if place == "first" else ("b", "a")
    write_shard(f"{corpus}/{good}.jsonl.zst", WHOLE)
    empty(corpus / bad)
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path / "runs", "--corpus.path", str(corpus)))
    assert ("corpus is empty" in line) if place == "first" else ("holds no documents" in line)
    assert "Check the corpus path" in line


@ray
def test_an_unknown_tokenizer(tmp_path, capfd, cluster):
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path, "--corpus.tokenizer", "/no/such/tokenizer"))
    assert "tokenizer '/no/such/tokenizer': this folder does not exist" in line and "hub id" in line
    assert artifacts_in(tmp_path) == {"smoke/world"}


@pytest.mark.parametrize(
    "option, value, named",
    [
        ("--corpus.path", "{tmp}/empty", "no shard found"),
        ("--corpus.path", "{tmp}/nowhere", "corpus.path is '{tmp}/nowhere', which does not exist"),
        ("--corpus.path", "$MEMLM_NOT_SET/text", "that environment variable is not set"),
        ("--corpus.path", "{tmp}/one", "is the only shard of corpus.path"),
        ("--questions.facts.path", "{tmp}/unanswered.jsonl", ":2: a question without answers"),
        ("--questions.facts.layout", "triviqa", "unknown question layout 'triviqa'; did you mean 'triviaqa'?"),
        ("--questions.facts.layout", "nq_open", ":1: "),
        ("--questions.held-out.0.path", "{tmp}/unanswered.jsonl", ":1: "),
        ("--questions.held-out.0.path", "{tmp}/no_questions.jsonl", "holds no questions"),
        ("--questions.facts.statements", "{tmp}/statements.jsonl", "fact 'nobody' needs at least one statement"),
        ("--questions.facts.statements", "{tmp}/broken.jsonl", "{tmp}/broken.jsonl:1: "),
    ],
)
def test_bad_input_is_found_before_work_is_done_and_without_a_cluster(tmp_path, capfd, option, value, named):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    write_shard(f"{tmp_path}/one/a.jsonl.zst", WHOLE)
    answered = {"question_id": "a", "question": "Who?", "answer": {"value": "X", "aliases": ["X"]}}
    unanswered = {"question_id": "b", "question": "Who else?", "answer": {"value": "", "aliases": []}}
    write_shard(f"{tmp_path}/unanswered.jsonl", [answered, unanswered])
    (tmp_path / "no_questions.jsonl").write_text("")
    (tmp_path / "statements.jsonl").write_text(json.dumps({"id": "nobody", "statements": ["X is."]}) + "\n")
    (tmp_path / "broken.jsonl").write_text('{"id": "a", "statements": ["X is."]\n')
    options = [option, value.format(tmp=tmp_path)]
    if "one" in value:
        options += ["--corpus.validation-path", ""]
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path / "runs", *options))
    assert named.format(tmp=tmp_path) in line
    assert artifacts_in(tmp_path / "runs") == {"smoke/world"}


# With existing checkpoints and counts.


@ray
def test_more_trainable_slots_than_the_pool_of_the_checkpoint_has(swept, cluster, capfd):
    """The command line is checked against the config's pool; this checkpoint has another."""
    options = ["--model.memory.num-half-keys", "64", "--method.num-trainable-slots", "1025"]
    before = artifacts_in(swept.storage)
    line = refused(capfd, finetune.run, smoke(swept.storage, *options))
    assert "num_half_keys = 32" in line and "num_half_keys = 64" in line
    assert artifacts_in(swept.storage) == before


@ray
def test_a_pool_that_does_not_fit_in_memory_is_refused_before_a_cluster_starts(swept, capfd, tmp_path):
    ignored = shutil.ignore_patterns("trials", "ray", "learned", "scores", "checkpoint*", "counts")
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=ignored)
    options = ["--model.memory.num-half-keys", "200000", "--tracking", "off"]
    began = time.process_time()
    line = refused(capfd, pretrain.run, smoke(tmp_path, *options))
    assert "model.memory.num_half_keys is 200000: 200000^2 slots x 32" in line and "values and two moments" in line
    assert time.process_time() - began < 2


@ray
def test_a_statement_longer_than_allowed(swept, cluster, capfd):
    line = refused(capfd, finetune.run, smoke(swept.storage, "--stream.max-length", "3", "--method", "lora"))
    assert "more than stream.max_length (3); raise it" in line


@ray
def test_a_rate_at_which_learning_diverges(swept, cluster, capfd):
    line = refused(
        capfd, finetune.run, smoke(swept.storage, "--method", "full", "--method.optimizer.learning-rate", "1e30")
    )
    assert "method.optimizer.learning_rate (1e+30) is too high" in line


@ray
def test_counts_of_another_checkpoint(swept, capfd, tmp_path):
    """A checkpoint with the same settings but another digest: its slot numbers mean something
    else."""
    base = swept.run / "checkpoint-memory"
    kept = shutil.ignore_patterns("trials", "ray", "learned", "checkpoint-memory")
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=kept)
    manifest = storage.read_manifest(str(base))
    with storage.write_artifact(
        str(tmp_path / "smoke" / "checkpoint-memory"),
        kind=manifest.kind,
        config=manifest.config,
        inputs=manifest.inputs,
    ) as draft:
        shutil.copytree(base, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(storage.MANIFEST))
        weights = draft.path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    for job in (finetune.run, count_accesses.run):
        line = refused(capfd, job, smoke(tmp_path, "--tracking", "off"))
        assert f"{tmp_path}/smoke/counts was made from a different checkpoint" in line and "to make it again" in line


@ray
def test_a_patched_checkpoint_is_not_taken_for_the_runs_own(swept, capfd, cluster, tmp_path):
    patch = finetune.run(smoke(swept.storage, "--tracking", "off"))
    kept = shutil.ignore_patterns("trials", "ray", "learned", "checkpoint-memory")
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=kept)
    apply_patch(str(swept.run / "checkpoint-memory"), patch, str(tmp_path / "smoke" / "checkpoint-memory"))
    line = refused(capfd, finetune.run, smoke(tmp_path, "--tracking", "off"))
    assert f"{tmp_path}/smoke/checkpoint-memory was made from a different corpus" in line


@ray
def test_a_damaged_checkpoint(swept, cluster, capfd, tmp_path):
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=shutil.ignore_patterns("trials", "ray", "learned"))
    weights = tmp_path / "smoke" / "checkpoint-dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    line = refused(capfd, evaluate.run, smoke(tmp_path, "--architecture", "dense", "--tracking", "off"))
    assert f"artifact {weights.parent}: missing or changed: model.safetensors. Move it away and run its stage" in line


@pytest.mark.parametrize("checkpoint", ["{tmp}/nowhere", "ftp://a/b"])
@ray
def test_an_evaluation_of_a_missing_checkpoint(swept, capfd, tmp_path, checkpoint):
    checkpoint = checkpoint.format(tmp=tmp_path)
    assert checkpoint in refused(capfd, evaluate.run, smoke(swept.storage, "--checkpoint", checkpoint))


# Places for results.


@pytest.fixture
def nobody() -> Iterator[str]:
    """Address without a server: the port is bound, but nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_an_unreachable_tracking_server_is_reported_before_the_sweep_begins(tmp_path, capfd, nobody):
    line = refused(capfd, sweep, smoke(tmp_path, "--tracking", nobody))
    assert f"tracking uri {nobody}: does not answer" in line and "Start it" in line
    assert list(tmp_path.iterdir()) == []


@ray
@pytest.mark.parametrize("job", [pretrain.run, count_accesses.run, finetune.run, evaluate.run])
def test_an_unreachable_tracking_server_is_reported_before_a_stage_begins(swept, tmp_path, capfd, nobody, job):
    kept = {pretrain.run: ("checkpoint*", "counts"), count_accesses.run: ("counts",)}.get(job, ())
    ignored = shutil.ignore_patterns("trials", "ray", "learned", "scores", *kept)
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=ignored)
    before = artifacts_in(tmp_path)
    line = refused(capfd, job, smoke(tmp_path, "--tracking", nobody, "--seed", "9"))
    assert "does not answer" in line and artifacts_in(tmp_path) == before


@pytest.mark.parametrize("address", ["mlruns", "sqlite:///mlflow.db"])
def test_a_tracking_address_of_unknown_kind(tmp_path, capfd, address):
    assert f"tracking uri {address}" in refused(capfd, sweep, smoke(tmp_path, "--tracking", address))


@pytest.fixture
def small_disk(tmp_path, request) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a worker may still have a file open


@ray
@pytest.mark.parametrize(
    "small_disk, made", [("64k", set()), ("280k", {"smoke/world"})], indirect=["small_disk"], ids=["world", "blocks"]
)
def test_a_full_disk(small_disk, made, capfd, cluster):
    """Both in the driver and in a worker."""
    line = refused(capfd, prepare_corpus.run, smoke(small_disk, "--tracking", "off"))
    assert f"storage {small_disk}/smoke/" in line and "no space left. Free some, or choose a larger disk" in line
    assert artifacts_in(small_disk) >= made and "smoke/corpus" not in artifacts_in(small_disk)
    deadline = time.monotonic() + 20  # another worker may still be removing its draft
    while drafts := [path for path in small_disk.rglob("*") if path.name.endswith(".partial")]:
        assert time.monotonic() < deadline, drafts
        time.sleep(0.1)


def test_a_read_only_folder(tmp_path, capfd):
    (tmp_path / "file").write_text("no folder")
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path / "file", "--tracking", "off"))
    assert "Choose a directory that you may write to" in line


def test_a_storage_address_of_unknown_kind(capfd):
    assert "must be a local path or s3://bucket/prefix" in refused(capfd, prepare_corpus.run, smoke("gs://bucket/runs"))


def test_a_temporary_folder_with_too_long_a_path(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 60)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with pytest.raises(RunError, match="107 bytes.*RAY_TMPDIR to an existing folder") as refused, starting():
        validate_socket_filepath(f"{folder}/ray/session_2026-11-26_11-20-30_123456_1234567/sockets/plasma_store")
    assert str(folder) in str(refused.value)
