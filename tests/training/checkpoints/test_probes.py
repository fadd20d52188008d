"""Probe facts: what is taught, what is asked, and that nothing of it stays."""

import json
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from memlm.cli import run_attach
from memlm.data.questions.records import Fact, Question
from memlm.data.tokenizer import train_tokenizer
from memlm.model.bases.attaching import with_memory
from memlm.model.bases.dense_addition import add_dense
from memlm.training.checkpoints import probes
from memlm.training.checkpoints.attaching import attach
from memlm.training.checkpoints.gates import measure, measure_control
from memlm.training.checkpoints.probes import probe_facts, recall_of_dense, recall_of_memory
from memlm.training.step import finetune_step
from tests.support.families import MEMORY, tiny_base
from tests.support.tiny import state

NAMES = ("Anna", "Bo", "Carla")
FACTS = [
    Fact(
        id=name,
        statements=(f"{name} comes from {place}.", f"It is {place} that {name} comes from."),
        questions=(Question(id=name, question=f"Where was {name} born?", answers=(place,), relation="P19"),),
    )
    for name, place in zip(NAMES, ("Rome", "Oslo", "Lima"), strict=True)
]
TOKENIZER = train_tokenizer(
    [f"Question: {fact.questions[0].question}\nAnswer: {fact.statements[0]}" for fact in FACTS] * 5, vocab_size=320
)


def base(max_position_embeddings=512):
    return tiny_base("llama", vocab_size=len(TOKENIZER), max_position_embeddings=max_position_embeddings)


def background():
    return torch.randint(0, 250, (4, 48), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def losses(monkeypatch):
    """The losses of the steps on two facts. A random model as tiny as this one writes no name, so
    it is said to answer no question before and the first one afterwards."""
    found: list[float] = []

    def step(method, batches):
        result = finetune_step(method, batches)
        found.append(result.loss)
        return result

    def right(model, tokenizer, questions):
        return [bool(found) and place == 0 for place in range(len(questions))]

    monkeypatch.setattr(probes, "probe_facts", lambda: FACTS[:2])
    monkeypatch.setattr(probes, "SHARE_OF_SLOTS", 1)
    monkeypatch.setattr(probes, "_right", right)
    monkeypatch.setattr(probes, "finetune_step", step)
    return found


def test_the_memory_learns_them_answers_and_forgets(losses):
    model = with_memory(base(), MEMORY)
    before = state(model)
    found = recall_of_memory(model, TOKENIZER, background(), num_facts=20)
    assert found.num_facts == 2 and found.answered == 0.5
    assert len(losses) == 2 * probes.NUM_PASSES and sum(losses[-2:]) < sum(losses[:2]) - 1
    assert all(torch.equal(before[name], tensor) for name, tensor in state(model).items())
    losses.clear()
    measured = measure(model, TOKENIZER, background(), base_loss=1.0, num_probes=1)
    assert measured.recall.num_facts == 1 and measured.recall.loss != measured.loss
    assert measured.numbers()["recall"] == measured.recall.answered and measured.zeroed_loss is None


def test_the_control_learns_the_same_facts(losses, monkeypatch):
    monkeypatch.setattr(probes, "RATE_OF_DENSE", 0.01)
    model, own = base(), state(base())
    names = add_dense(model, MEMORY, seed=0)
    found = recall_of_dense(model, names, TOKENIZER, background(), num_facts=2)
    assert found.num_facts == 2 and found.answered == 0.5
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.3
    assert all(torch.equal(own[name], tensor) for name, tensor in state(model).items() if name not in names)
    losses.clear()
    beside = measure_control(model, names, TOKENIZER, background(), base_loss=1.0, num_probes=0)
    assert beside.recall is None and beside.num_parameters > 0 and len(beside.lines()) == 1


def test_known_facts_are_left_out_and_examples_are_shown_where_they_fit(monkeypatch):

    def answered(reader, questions, **_):
        return SimpleNamespace(exact_match=[float(question.id == "Bo") for question in questions])

    monkeypatch.setattr(probes, "probe_facts", lambda: FACTS)
    monkeypatch.setattr(probes, "answer_questions", answered)
    unknown = probes._unknown_facts(base(), TOKENIZER, 2)
    assert [fact.id for fact in unknown] == ["Anna", "Carla"]
    assert len(probes._unknown_facts(base(128), TOKENIZER, 1)) == 1  # the examples do not fit


def test_the_question_that_is_asked_is_never_taught():
    for fact in [*probe_facts(), *FACTS]:
        taught = probes._in_all_wordings(fact).statements
        assert not any(fact.questions[0].question in text for text in taught)
        assert sum(text.startswith("Question:") for text in taught) > 1


def test_facts_that_do_not_fit_the_models_positions_are_left_out():
    assert recall_of_memory(with_memory(base(32), MEMORY), TOKENIZER, background()[:, :32], num_facts=20) is None


def test_values_that_are_not_zero_have_a_control():
    model = with_memory(base(), MEMORY)
    pool = model.model.value_pools[0].weight
    pool.data.normal_(generator=torch.Generator().manual_seed(0))
    before = pool.detach().clone()
    measured = measure(model, TOKENIZER, background(), base_loss=1.0, num_probes=0)
    assert measured.zeroed_loss != measured.loss and torch.equal(pool, before)
    assert "with all values zero" in "\n".join(measured.lines())


def test_the_command_prints_recall_and_the_control(losses, tmp_path, capsys):
    base().save_pretrained(tmp_path / "base")
    TOKENIZER.save_pretrained(tmp_path / "base")
    options = ["--layer", "1", "--slots", "81", "--key-tokens", "256", "--probes", "2", "--control"]
    with suppress(SystemExit):  # a gate may fail
        run_attach([str(tmp_path / "base"), str(tmp_path / "out"), *options])
    written = capsys.readouterr().out
    assert "50.0% of 2 facts that it did not know are answered" in written
    assert "control: a dense network of" in written
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["details"]["control"]["num_parameters"] > 0


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_probes": -1}, "num_probes is -1; it must not be negative"),
        ({"num_probes": 0, "control": True}, "control is True, and num_probes is 0"),
        ({"keys": "random", "control": True}, "control is True, and keys is 'random'"),
    ],
)
def test_settings_that_measure_nothing_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        attach(str(tmp_path / "nowhere"), str(tmp_path / "out"), layer=1, slots=81, **settings)
