"""Reuse of earlier results, and refusals to mix different ones."""

import json
import shlex
import shutil
import time
from pathlib import Path

import matplotlib.image
import pytest
import torch

from memlm import artifacts, storage
from memlm.cli import parse
from memlm.data.corpus.corpus import open_corpus
from memlm.jobs import count_accesses, evaluate, finetune, prepare_corpus, pretrain
from memlm.jobs.trial.materials import load_model
from memlm.kinds import COUNTS_FILE, READS_FILE
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.training.counting import read_unit
from tests.jobs.running import artifacts_in, refused, smoke
from tests.jobs.sweep.results import METHODS, RUNS_OF, query, sweep, times_of, without_times

pytestmark = pytest.mark.ray


def test_a_second_run_reuses_everything(swept, cluster, capsys):
    before, times, began = swept.frontier(), times_of(swept), time.monotonic()
    sweep(smoke(swept.storage))
    assert time.monotonic() - began < 30
    out = capsys.readouterr().out
    assert all(f"{stage}: reusing" in out for stage in ("corpus", "count")) and "12 of them already finished" in out
    assert times_of(swept) == times
    assert swept.frontier() == before
    assert len(query(swept, RUNS_OF, "memlm pareto sweeps")) == 13


def test_only_missing_trials_are_run_again_with_the_same_result(swept, cluster, capsys):
    before, times, ledger = swept.frontier(), times_of(swept), swept.ledger()
    lost = [next(path for path in ledger.values() if f'"{method}"' in path.read_text()) for method in METHODS]
    results = {path: json.loads(path.read_text())["result"] for path in lost}
    for path in lost:
        path.unlink()
    sweep(smoke(swept.storage))
    out = capsys.readouterr().out
    assert "12 trials, 9 of them already finished" in out and "sweep: 3/3" in out
    changed = {path for path, when in times_of(swept).items() if times[path] != when}
    assert changed == {str(path) for path in lost}
    for path, result in results.items():
        again = json.loads(path.read_text())["result"]
        assert {name: again[name] for name in ("start", "end", "key")} == {
            name: result[name] for name in ("start", "end", "key")
        }
    assert without_times(swept.frontier()) == without_times(before)
    assert len(query(swept, RUNS_OF, "memlm pareto sweeps")) == 13


def test_a_run_is_drawn_next_to_the_runs_that_it_names(swept, cluster, capsys):
    """All trials are in the other run's ledger: nothing is run, and one picture shows both."""
    config = smoke(
        swept.storage, "--run-name", "compared", "--base-run", "smoke", "--sweep.compare-with", "smoke", "none"
    )
    sweep(config)
    out = capsys.readouterr().out
    assert "12 trials, 12 of them already finished" in out
    assert f"joint picture: {swept.storage}/none has no frontier yet; run pareto_sweep.py none" in out
    one, two = (matplotlib.image.imread(swept.storage / "compared" / name) for name in ("frontier.png", "joint.png"))
    assert two.shape[1] > one.shape[1]


# Interrupted counting.


@pytest.fixture
def copied(swept, tmp_path) -> Path:
    """Copy of the smoke run's world, corpus and checkpoints that the test may damage."""
    kept = shutil.ignore_patterns("trials", "ray", "learned", "scores", "frontier*", "report*")
    shutil.copytree(swept.run, tmp_path / "smoke", ignore=kept)
    return tmp_path


@pytest.mark.slow
def test_counting_continues_from_the_stored_units(copied, cluster):
    """A partial count with a thousand extra tokens shows that it was reused and not counted
    again."""
    run, config = copied / "smoke", smoke(copied)
    whole = BackgroundCounts.load(run / "counts" / "counts.safetensors")
    manifest = storage.read_manifest(str(run / "counts"))
    shutil.rmtree(run / "counts")
    marked = BackgroundCounts.zero(len(whole.accesses))
    marked = BackgroundCounts(**{**vars(marked), "num_tokens": 1000})
    partial = artifacts.partial_counts(config, range(5, 10))
    assert partial.uri == str(run / "counts-partial" / "unit_0000005_0000010")
    with partial.made_from(**manifest.inputs).write() as draft:
        marked.save(draft.path / COUNTS_FILE)
    counted = BackgroundCounts.load(Path(count_accesses.run(config)) / "counts.safetensors")
    assert counted.num_batches == 15  # three units of five, and the marked one without new tokens
    assert counted.num_tokens == 1000 + whole.num_tokens * 15 // 20
    assert not (run / "counts-partial").exists()


def one_process_reads(config, run: Path, batches: range) -> BackgroundReads:
    opened = open_corpus(str(run / "corpus"))
    tokens = {"eos_id": opened.tokenizer.eos_token_id, "pad_id": opened.tokenizer.pad_token_id}
    model = load_model(str(run / "checkpoint-memory"))
    return read_unit(model, opened.train_blocks(), batches, config.counting, **tokens)


def test_a_run_with_counts_gets_the_reads_alone(copied, cluster, capsys):
    """Units that are there are taken as they are: one with a marked weight shows it."""
    run = copied / "smoke"
    config = smoke(copied, "--counting.read-tokens", "1000", "--counting.batches-per-unit", "3")
    before = {path: path.stat().st_mtime_ns for path in (run / "counts").iterdir()}
    expected = one_process_reads(config, run, range(8))  # 8 micro-batches of 128 tokens
    marked = one_process_reads(config, run, range(3, 6))
    marked.weights[0, 0] = 7.0
    partial = artifacts.partial_reads(config, range(3, 6))
    with partial.made_from(**storage.read_manifest(str(run / "counts")).inputs).write() as draft:
        marked.save(draft.path / READS_FILE)
    count_accesses.run(config)
    out = capsys.readouterr().out
    assert f"count: reusing {run}/counts" in out and "1 of 3 units are already counted" in out
    assert {path: path.stat().st_mtime_ns for path in (run / "counts").iterdir()} == before
    reads = BackgroundReads.load(artifacts.reads(config).open() / READS_FILE)
    assert torch.equal(reads.slots, expected.slots) and reads.num_tokens == expected.num_tokens
    changed = (reads.weights != expected.weights).nonzero()
    assert changed.tolist() == [[one_process_reads(config, run, range(3)).num_tokens, 0]]
    assert not (run / "reads-partial").exists() and not (run / "counts-attempts").exists()
    patch = finetune.run(
        smoke(copied, "--counting.read-tokens", "1000", "--method", "sparse_memory_decorrelated", "--tracking", "off")
    )
    assert storage.read_manifest(patch).inputs["reads"] == storage.read_manifest(str(run / "reads")).digest
    assert storage.read_manifest(patch).details["rows"]
    count_accesses.run(config)
    assert f"count: reusing {run}/reads" in capsys.readouterr().out


# Artifacts that do not fit together.


@pytest.mark.parametrize(
    "job, changed, was, wanted",
    [
        (sweep, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (prepare_corpus.run, ["--corpus.block-size", "32"], "block_size = 64", "block_size = 32"),
        (pretrain.run, ["--pretraining.num-steps", "61"], "num_steps = 60", "num_steps = 61"),
        (count_accesses.run, ["--counting.num-batches", "21"], "num_batches = 20", "num_batches = 21"),
        (pretrain.run, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (count_accesses.run, ["--corpus.block-size", "32"], "block_size = 64", "block_size = 32"),
        (finetune.run, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (finetune.run, ["--pretraining.num-steps", "61"], "num_steps = 60", "num_steps = 61"),
        (finetune.run, ["--counting.num-batches", "21"], "num_batches = 20", "num_batches = 21"),
        (evaluate.run, ["--world.seed", "7"], "seed = 0", "seed = 7"),
        (evaluate.run, ["--model.num-layers", "3"], "num_layers = 2", "num_layers = 3"),
    ],
)
def test_the_same_run_name_with_another_config_is_refused_naming_the_field(
    swept, cluster, capfd, job, changed, was, wanted
):
    before = times_of(swept)
    line = refused(capfd, job, smoke(swept.storage, *changed))
    assert was in line and wanted in line and "--run-name" in line and str(swept.run) in line
    assert times_of(swept) == before


@pytest.mark.parametrize(
    "job, gone, named",
    [
        (pretrain.run, "corpus", "prepare_corpus.py smoke"),
        (count_accesses.run, "corpus", "prepare_corpus.py smoke"),
        (count_accesses.run, "checkpoint-memory", "pretrain.py smoke"),
        (finetune.run, "corpus", "prepare_corpus.py smoke"),
        (finetune.run, "checkpoint-memory", "pretrain.py smoke"),
        (finetune.run, "counts", "count_accesses.py smoke"),
        (evaluate.run, "corpus", "prepare_corpus.py smoke"),
        (evaluate.run, "checkpoint-memory", "pretrain.py smoke"),
    ],
)
def test_a_missing_input_is_named_with_the_command_that_makes_it(copied, capfd, job, gone, named):
    shutil.rmtree(copied / "smoke" / gone)
    left = artifacts_in(copied)
    line = refused(capfd, job, smoke(copied))
    assert line.startswith(f"error: {copied}/smoke/{gone} is missing; make it with: python pipelines/{named}")
    assert parse("", shlex.split(line.split("make it with: ")[1])[2:]).storage == str(copied)
    assert artifacts_in(copied) == left


def test_missing_reads_are_named_with_the_command_that_makes_them(copied, capfd):
    """A run of before there were reads, and a method that needs them."""
    line = refused(capfd, finetune.run, smoke(copied, "--method", "sparse_memory_decorrelated"))
    assert line.startswith(f"error: {copied}/smoke/reads is missing; make it with: python pipelines/count_accesses.py")


def test_lora_needs_no_counts(copied, cluster):
    shutil.rmtree(copied / "smoke" / "counts")
    assert storage.has_artifact(finetune.run(smoke(copied, "--method", "lora", "--tracking", "off")))
