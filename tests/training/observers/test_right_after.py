"""Documents learned one by one: asked at the right moments, and learned as if nobody asked."""

from dataclasses import replace

import pytest
import torch

from memlm.data.config import DocumentStreamConfig
from memlm.data.stating.statements import with_answer
from memlm.evaluation.question_answering import answer_questions
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig
from memlm.methods.lora import LoRAConfig
from memlm.model.reader import Reader
from memlm.training.finetune import run_trial
from memlm.training.materials import facts_of
from memlm.training.observers.observer import StreamObserver
from tests.support.tiny import MEMORY, random_background, sparse_config, state
from tests.training.test_finetune import base_model, materials, question, tokenizer, trial_with  # noqa: F401

STREAM = DocumentStreamConfig(num_documents=3, num_augmentations=2, num_passes=2, order="one_by_one", max_length=40)
METHODS = [
    sparse_config(6, learning_rate=0.5),
    FullConfig(optimizer=OptimizerConfig(learning_rate=0.01)),
    LoRAConfig(rank=2, optimizer=OptimizerConfig(learning_rate=0.05)),
]


def learned(method, materials, stream=STREAM, observer=None):  # noqa: F811
    trial = replace(trial_with(method), stream=stream)
    model = base_model(materials.tokenizer, MEMORY)
    given = replace(materials, background=random_background(model))
    result, model = run_trial(trial, model, given, key="key", observer=observer or StreamObserver())
    return trial, result, state(model)


class Keeper(StreamObserver):
    """Asks all questions after every step."""

    def __init__(self, trial, materials):  # noqa: F811
        self.trial, self.materials, self.steps = trial, materials, {}
        self.questions = [fact.questions[0] for fact in facts_of(trial, materials)]

    def on_start(self, method):
        self.on_step(0, None, None, method)

    def on_step(self, step, batch, result, method):
        evaluation = self.trial.evaluation
        self.steps[step] = answer_questions(
            Reader(method.learning_model.eval(), self.materials.tokenizer),
            self.questions,
            examples=self.materials.held_out.examples,
            max_new_tokens=evaluation.max_new_tokens,
            batch_size=evaluation.batch_size,
        )
        method.model.train()


@pytest.mark.parametrize("examples", [(), (question(0, "Where is Ada?"),)], ids=["alone", "behind examples"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_each_document_is_asked_right_after_its_last_step(materials, method, examples):  # noqa: F811
    materials = replace(materials, held_out=replace(materials.held_out, examples=examples))
    keeper = Keeper(replace(trial_with(method), stream=STREAM), materials)
    _, result, _ = learned(method, materials, observer=keeper)
    after = {2: 0, 4: 1, 6: 2}  # two steps on each document
    steps = keeper.steps
    assert sorted(steps) == [0, 1, 2, 3, 4, 5, 6]
    for name, measure in (("", "exact_match"), ("_f1", "f1")):
        right = [getattr(steps[step], measure)[place] for step, place in after.items()]
        wanted = {
            f"new_facts_start{name}": sum(getattr(steps[0], measure)) / 3,
            f"new_facts_right_after{name}": sum(right) / 3,
            f"new_facts_end{name}": sum(getattr(steps[6], measure)) / 3,
            f"new_facts_earlier_start{name}": sum(getattr(steps[0], measure)[:2]) / 2,
            f"new_facts_earlier_right_after{name}": sum(right[:2]) / 2,
            f"new_facts_earlier_end{name}": sum(getattr(steps[6], measure)[:2]) / 2,
        }
        assert {key: result.extra[key] for key in wanted} == pytest.approx(wanted)
    assert result.extra["new_facts_end"] == pytest.approx(result.end["new_facts"].value)
    assert result.extra["new_facts_end_f1"] == pytest.approx(result.extra["new_facts_f1"])


def test_something_is_learned_and_lost_between_the_moments(materials):  # noqa: F811
    """Else the test above could not tell the moments apart."""
    asked = [
        replace(fact, statements=(with_answer(each.question, each.answers[0]),))
        for fact in materials.facts
        for each in fact.questions
    ]
    stream = replace(STREAM, num_passes=40, max_length=60)
    trained = FullConfig(optimizer=OptimizerConfig(learning_rate=0.02))
    _, result, _ = learned(trained, replace(materials, facts=asked), stream)
    extra = result.extra
    assert extra["new_facts_earlier_start"] < extra["new_facts_earlier_right_after"] == 1
    assert extra["new_facts_earlier_end"] < extra["new_facts_earlier_right_after"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_asking_changes_nothing(materials, method, monkeypatch):  # noqa: F811
    _, asked, one = learned(method, materials)
    monkeypatch.setattr("memlm.training.finetune.learns_one_by_one", lambda stream: False)
    _, plain, other = learned(method, materials)
    assert asked.end == plain.end and all(torch.equal(one[name], other[name]) for name in one)
    assert "new_facts_right_after" not in plain.extra


def test_a_single_document_has_no_earlier_ones(materials):  # noqa: F811
    _, result, _ = learned(METHODS[0], materials, replace(STREAM, num_documents=1))
    assert "new_facts_right_after" in result.extra and not any("earlier" in name for name in result.extra)
    _, passes, _ = learned(METHODS[0], materials, replace(STREAM, order="in_passes"))
    assert "new_facts_right_after" not in passes.extra
