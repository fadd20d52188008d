"""A finetune, its patch, and the scores of the patched checkpoint."""

import filecmp
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from memlm import storage
from memlm.jobs import evaluate, finetune
from memlm.training.patch import apply_patch, undo_patch
from tests.jobs.running import BIN, run_command, smoke
from tests.jobs.sweep.results import ONE_EVERY_TIME, mean_of

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", params=ONE_EVERY_TIME)
def learned(request, swept, cluster) -> tuple[str, Path, Path]:
    """A method, its patch, and the checkpoint that it was learned from."""
    config = smoke(swept.storage, "--method", request.param, "--method.optimizer.learning-rate", "0.01")
    base = "memory" if request.param == "sparse_memory" else "dense"
    return request.param, Path(finetune.run(config)), swept.run / f"checkpoint-{base}"


def test_a_patch_is_applied_and_undone_byte_for_byte(swept, learned, tmp_path):
    method, patch, base = learned
    patched, undone = tmp_path / "patched", tmp_path / "undone"
    if method == "sparse_memory":  # once as a user does
        for name, checkpoint, output in (("apply", base, patched), ("undo", patched, undone)):
            ended = run_command(str(BIN / "memlm"), name, str(checkpoint), str(patch), str(output))
            assert (ended.code, ended.err) == (0, "") and ended.out.endswith(f"\nwrote {output}\n")
    else:
        apply_patch(str(base), str(patch), str(patched))
        undo_patch(str(patched), str(patch), str(undone))
    files = sorted(path.name for path in base.iterdir() if path.name != "manifest.json")
    assert filecmp.cmpfiles(base, undone, files, shallow=False) == (files, [], [])
    assert filecmp.cmpfiles(base, patched, files, shallow=False)[1] == ["model.safetensors"]
    before, after = (load_file(folder / "model.safetensors") for folder in (base, patched))
    changed = {
        name: int((before[name] != after[name]).flatten(1).any(dim=1).sum()) if before[name].ndim > 1 else None
        for name in before
    }
    rows = json.loads((patch / "manifest.json").read_text())["details"]["rows"]
    assert {name: count for name, count in changed.items() if count} == {
        name: count for name, count in rows.items() if before[name].ndim > 1
    }
    if method == "sparse_memory":
        assert list(rows) == ["model.value_pools.0.weight"] and rows["model.value_pools.0.weight"] < 1024


def test_a_patched_checkpoint_scores_what_the_finetune_scored(swept, learned, tmp_path):
    method, patch, base = learned
    trial = json.loads((patch / "scores.json").read_text())
    apply_patch(str(base), str(patch), str(tmp_path / "patched"))
    architecture = "memory" if method == "sparse_memory" else "dense"
    for checkpoint, scored in ((str(tmp_path / "patched"), trial["end"]), ("", trial["start"])):
        where = evaluate.run(smoke(swept.storage, "--checkpoint", checkpoint, "--architecture", architecture))
        report = storage.read_json(where)
        assert report["sets"] == scored
        assert report["extra"].keys() == {
            *(f"{name}_f1" for name in ("new_facts", "known_facts", "arithmetic")),
            "text_perplexity",
            "text_bits_per_byte",
            "new_facts_answer_nats",
        }


def test_a_finished_finetune_is_reused(swept, learned, cluster, capsys):
    method, patch, _ = learned
    when = (patch / "manifest.json").stat().st_mtime_ns
    config = smoke(swept.storage, "--method", method, "--method.optimizer.learning-rate", "0.01")
    assert finetune.run(config) == str(patch)
    assert f"finetune: reusing {patch}" in capsys.readouterr().out
    assert (patch / "manifest.json").stat().st_mtime_ns == when


def test_sweep_and_finetune_agree_on_the_same_trial(swept, cluster):
    """The actor that runs many trials, and shares weights and scores among them, changes none."""
    entry = next(
        entry
        for entry in (json.loads(path.read_text())["result"] for path in swept.ledger().values())
        if entry["method"] == "sparse_memory" and entry["seed"] == 1
    )
    settings = entry["hyperparameters"]
    config = smoke(
        swept.storage,
        *("--seed", "1", "--method.num-trainable-slots", str(settings["num_trainable_slots"])),
        *("--method.optimizer.learning-rate", str(settings["optimizer.learning_rate"])),
    )
    patch = finetune.run(config)
    result = storage.read_json(storage.join(patch, "scores.json"))
    assert {name: result[name] for name in ("key", "start", "end")} == {
        name: entry[name] for name in ("key", "start", "end")
    }
    # A single finetune also writes its answers, a picture and a page.
    for name, answers in result["answers"].items():
        right = [each["after"].strip() in each["accepted"] for each in answers]
        assert len(answers) >= len(result["end"][name]["items"]) and all(
            each.keys() >= {"question", "before"} for each in answers
        )
        assert sum(right) <= len(answers) * mean_of(result["end"][name]) + 1e-6
    assert (Path(patch) / "report.html").is_file() and (Path(patch) / "scores.png").is_file()
