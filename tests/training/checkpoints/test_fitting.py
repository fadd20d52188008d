"""Keys of an attached memory that are fitted to a folder's text or to the base's own."""

import json

import pytest
import torch

from memlm import storage
from memlm.cli import GATE_FAILED, run_attach
from memlm.data.corpus.shards import write_shard
from memlm.data.tokenizer import train_tokenizer
from memlm.model.bases.key_fitting import FittingError
from memlm.model.language_model import load_checkpoint
from memlm.training.checkpoints.attaching import attach
from memlm.training.checkpoints.gates import GATES, Measured
from memlm.training.checkpoints.probes import Recall, probe_facts
from tests.support.families import tiny_base

CPU = torch.device("cpu")
NAMES = ("Anna", "Bo", "Carla", "Dimitri", "Eve", "Farid", "Grete")
TEXTS = [f"{name} met {other} in {year}." for name in NAMES for other in NAMES for year in range(1950, 1956)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a base that has a tokenizer, and one with text next to it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tiny_base("llama", vocab_size=300).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    write_shard(str(folder / "text" / "a.jsonl"), [{"text": text} for text in TEXTS])
    return folder


def attached(base, out, **settings):
    return attach(str(base / "base"), str(out), layer=1, slots=81, **{"key_tokens": 1024, "num_probes": 0, **settings})


@pytest.mark.parametrize("form", ["whole", "adapter"])
def test_fitted_keys_are_stored_and_change_no_logit(base, tmp_path, form):
    made = attached(base, tmp_path / "out", text=str(base / "text"), form=form)
    assert made.measured is not None and made.measured.usage == 1 and made.measured.hub_share < 0.1
    assert made.measured.loss == made.measured.base_loss
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        logits = load_checkpoint(tmp_path / "out", CPU)(input_ids=tokens).logits
        assert torch.equal(logits, load_checkpoint(base / "base", CPU)(input_ids=tokens).logits)
    details = json.loads((tmp_path / "out" / "manifest.json").read_text())["details"]
    assert details["gates"]["usage"] == 1
    assert storage.read_manifest(str(tmp_path / "out")).inputs.keys() == {"base", "text"}


def test_the_same_text_and_seed_give_the_same_checkpoint(base, tmp_path):
    digests = {
        name: attached(base, tmp_path / name, **settings).digest
        for name, settings in {
            "text": {"text": str(base / "text")},
            "again": {"text": str(base / "text")},
            "seed": {"text": str(base / "text"), "seed": 1},
            "own": {},
            "own again": {},
            "random": {"keys": "random"},
        }.items()
    }
    assert digests["text"] == digests["again"] and digests["own"] == digests["own again"]
    assert len(set(digests.values())) == 4


def test_random_keys_are_measured_by_nobody(base, tmp_path):
    assert attached(base, tmp_path / "out", keys="random").measured is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "TEXT", "keys": "random"}, "keys is 'random', which are fitted to no text"),
        ({"text": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_text_that_cannot_be_used_is_refused_before_anything_is_written(base, tmp_path, settings, message):
    settings = {name: str(base / "text") if value == "TEXT" else value for name, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        attached(base, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_text_is_refused_for_a_base_without_a_tokenizer(base, tmp_path):
    tiny_base("llama").save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="has no tokenizer to read it with"):
        attach(str(tmp_path / "base"), str(tmp_path / "out"), layer=1, slots=81, text=str(base / "text"))


def test_too_little_text_is_refused(base, tmp_path):
    write_shard(str(tmp_path / "text" / "a.jsonl"), [{"text": "Bo."}])
    with pytest.raises(FittingError, match="give more text"):
        attached(base, tmp_path / "out", text=str(tmp_path / "text"))
    assert not storage.has_artifact(str(tmp_path / "out"))


def test_the_command_prints_the_gates_and_fails_with_a_status_of_its_own(base, tmp_path, capsys):
    many_slots = [
        "--layer",
        "1",
        "--slots",
        "10000",
        "--heads",
        "1",
        "--top-k",
        "1",
        "--key-tokens",
        "1024",
        "--probes",
        "0",
    ]
    with pytest.raises(SystemExit) as ended:
        run_attach([str(base / "base"), str(tmp_path / "out"), *many_slots, "--text", str(base / "text")])
    written = capsys.readouterr().out
    assert ended.value.code == GATE_FAILED and "gate failed: usage must be at least 50%" in written
    assert "nats per token of the base alone" in written and "its keys are random" not in written
    assert storage.has_artifact(str(tmp_path / "out"))


def test_a_gate_fails_on_its_own_number():
    good = {"num_tokens": 1, "base_loss": 3.0, "loss": 3.0, "usage": 1.0, "hub_share": 0.07, "question_reads": 0.12}
    assert not Measured(**good).failed()
    bad = {"loss": {"loss": 3.1}, "usage": {"usage": 0.4}, "hub share": {"hub_share": 0.3}}
    bad["question reads"] = {"question_reads": 0.01}
    bad["recall"] = {"recall": Recall(num_facts=20, answered=0.05, loss=3.0)}
    assert {
        name: [gate.name for gate in Measured(**{**good, **changed}).failed()] for name, changed in bad.items()
    } == {gate.name: [gate.name] for gate in GATES}


def test_probe_facts_come_with_statements_and_questions():
    facts = probe_facts()
    assert len(facts) > 30 and all(fact.statements and fact.questions for fact in facts)
