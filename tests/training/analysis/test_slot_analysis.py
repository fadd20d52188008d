import pytest
import torch

from memlm.data.questions.facts import fact_batch
from memlm.evaluation.config import EvaluationConfig
from memlm.training.analysis import slot_analysis
from memlm.training.analysis.slot_analysis import minimum_slots_to_learn, restored_values, slots_of_fact, text_reads
from tests.support.tiny import (
    MEMORIES,
    MEMORY,
    plain_selection,
    random_background,
    read_slots,
    sparse_config,
    state,
)
from tests.training.test_finetune import base_model, facts, tokenizer  # noqa: F401

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
EVALUATION = EvaluationConfig(max_new_tokens=6, batch_size=4)


def reads_of(model, tokenizer, text):  # noqa: F811
    return read_slots(model, torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]]))[0]


@every_memory
def test_the_sets_of_a_fact_match_their_names(tokenizer, memory):  # noqa: F811
    model, fact = base_model(tokenizer, memory), facts()[0]
    background = random_background(model)
    found = slots_of_fact(model, tokenizer, fact, sparse_config(6), background, max_length=64)
    wordings = [
        set(reads_of(model, tokenizer, text + tokenizer.eos_token).flatten().tolist()) for text in fact.statements
    ]
    prompt = f"Question: {fact.questions[0].question}\nAnswer:"
    answering = reads_of(model, tokenizer, f"{prompt} Rome")
    assert set(found.accessed.tolist()) == set.union(*wordings)
    assert set(found.shared.tolist()) == set.intersection(*wordings)
    core = set.intersection(*wordings, set(answering.flatten().tolist()))
    assert set(found.core.tolist()) == core and core
    predicted_from = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) - 1
    assert set(found.answering.tolist()) == core & set(answering[predicted_from:].flatten().tolist())
    batch = fact_batch(fact.id, fact.statements, tokenizer, max_length=64)
    assert found.trainable.tolist() == plain_selection(model, [batch], background, 6)


@every_memory
def test_text_reads_are_those_of_each_token(tokenizer, memory):  # noqa: F811
    model, fact = base_model(tokenizer, memory), facts()[0]
    trainable = torch.arange(0, 81, 2)
    rows = text_reads(model, tokenizer, fact, trainable, wordings=fact.statements[:1])
    assert [row.label for row in rows] == ["question 1", "wording 1"]
    assert "".join(rows[1].tokens) == fact.statements[0] + tokenizer.eos_token
    slots = reads_of(model, tokenizer, fact.statements[0] + tokenizer.eos_token)
    for reads, token in zip(rows[1].reads, slots.tolist(), strict=True):
        assert reads.num_read == len(set(token))
        assert reads.num_trainable == len({slot for slot in token if slot % 2 == 0 and slot < 81})


def answered_when(monkeypatch, condition):
    """Replace the model's answers, since an untrained model gives no right one."""

    def answer(reader, questions, **_):
        return type("Answers", (), {"exact_match": tuple(float(condition(reader.model)) for _ in questions)})

    monkeypatch.setattr(slot_analysis, "answer_questions", answer)


def search(tokenizer, model, monkeypatch, condition, **settings):  # noqa: F811
    answered_when(monkeypatch, condition)
    settings = {"slot_counts": (8, 2, 4), "num_steps": 3, **settings}
    return minimum_slots_to_learn(
        model,
        tokenizer,
        facts()[0],
        sparse_config(6, learning_rate=0.5),
        random_background(model),
        max_length=64,
        evaluation=EVALUATION,
        **settings,
    )


@every_memory
def test_the_smallest_sufficient_number_of_slots_is_found_and_values_are_restored(tokenizer, memory, monkeypatch):  # noqa: F811
    model = base_model(tokenizer, memory)
    before = state(model)

    def num_moved(model):
        rows = [
            (state(model)[name] != value).any(dim=1).sum() for name, value in before.items() if "value_pools" in name
        ]
        return int(sum(rows))

    assert search(tokenizer, model, monkeypatch, lambda model: num_moved(model) >= 3) == 4
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_known_facts_need_no_slots_and_unlearned_facts_have_no_number(tokenizer, monkeypatch):  # noqa: F811
    model = base_model(tokenizer, MEMORY)
    assert search(tokenizer, model, monkeypatch, lambda model: True) == 0
    assert search(tokenizer, model, monkeypatch, lambda model: False) is None


def test_a_fact_is_asked_once_after_all_steps(tokenizer, monkeypatch):  # noqa: F811
    """Not after each step, which would take the best of them."""
    asked, steps = [], []
    step = slot_analysis.finetune_step
    monkeypatch.setattr(slot_analysis, "finetune_step", lambda *given: steps.append(1) or step(*given))

    def at_the_third_time(model):
        asked.append(len(steps))
        return len(asked) == 3  # before learning, after three steps with two slots, after three with four

    assert search(tokenizer, base_model(tokenizer, MEMORY), monkeypatch, at_the_third_time) == 4
    assert asked == [0, 3, 6]


def test_values_are_restored_after_an_error(tokenizer):  # noqa: F811
    model = base_model(tokenizer, MEMORY)
    before = state(model)
    with pytest.raises(RuntimeError):
        with restored_values(model):
            model.model.value_pools[0].weight.data += 1
            raise RuntimeError
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
