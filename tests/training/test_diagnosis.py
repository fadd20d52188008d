"""Real trials that learn nothing, each for a reason of its own, and one that learns."""

from dataclasses import replace

import pytest

from memlm.data.config import StreamConfig
from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.data.stating.statements import facts_of_questions
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig
from memlm.methods.in_context import InContextConfig
from memlm.results.scores import LEARNING_SET
from memlm.training.diagnosis import has_learned, reasons_nothing_was_learned
from memlm.training.finetune import run_trial
from memlm.training.materials import facts_of
from tests.support.tiny import MEMORY
from tests.training.test_finetune import base_model, materials, tokenizer, trial_with  # noqa: F401


def full(rate: float) -> FullConfig:
    return FullConfig(optimizer=OptimizerConfig(learning_rate=rate))


def why(materials, method, *, facts=None, stream=None, evaluation=None):  # noqa: F811
    materials = replace(materials, facts=facts or materials.facts)
    trial = replace(trial_with(method), stream=stream or StreamConfig(num_facts=6, num_wordings=2, num_passes=2))
    trial = replace(trial, evaluation=evaluation or replace(trial.evaluation, max_new_tokens=8))
    dense = method.base == "dense"
    result, learned = run_trial(trial, base_model(materials.tokenizer, MEMORY, dense=dense), materials, key="k")
    assert not has_learned(result)
    return reasons_nothing_was_learned(trial, result, learned, materials, facts_of(trial, materials))


def asking(*pairs: tuple[str, str]) -> list[Question]:
    return [
        Question(id=f"f:{number}", question=question, answers=(answer,))
        for number, (question, answer) in enumerate(pairs)
    ]


def test_a_rate_that_is_too_low_is_named_with_the_settings_to_raise(materials):  # noqa: F811
    reasons = " ".join(why(materials, full(1e-9)))
    assert "the model hardly moved" in reasons and "learning_rate (1e-09) or stream.num_passes (2)" in reasons


def test_a_rate_that_makes_answers_less_likely_is_reported_as_too_high(materials):  # noqa: F811
    reasons = " ".join(why(materials, full(2.0), stream=StreamConfig(num_facts=6, num_wordings=1, num_passes=1)))
    assert "became less likely" in reasons and "lower method.optimizer.learning_rate (2)" in reasons


def test_answers_that_do_not_fit_are_counted(materials):  # noqa: F811
    evaluation = replace(trial_with(full(1e-9)).evaluation, max_new_tokens=1)
    facts = facts_of_questions(asking(("Who lives in Rome?", "Ada of the 37 names")))
    reasons = " ".join(why(materials, full(1e-9), facts=facts, evaluation=evaluation))
    assert (
        f"{LEARNING_SET}: 1 of 1 " in reasons
        and "can never be answered right" in reasons
        and "max_new_tokens" in reasons
    )


def test_facts_stated_as_topic_and_answer_are_counted(materials):  # noqa: F811
    facts = facts_of_questions(asking(("the mayor of Lima", "Ada"), ("Who lives in Rome?", "Bo")))
    reasons = " ".join(why(materials, full(1e-9), facts=facts))
    assert "1 of 2 facts are stated as topic and answer" in reasons and "write_statements.py" in reasons


def test_questions_of_a_form_that_the_model_never_answered_are_counted(materials):  # noqa: F811
    facts = facts_of_questions(
        asking(("Who lives in Rome?", "Ada"), ("What is the town of Bo?", "Oslo"), ("Who is it?", "Cy"))
    )
    reasons = " ".join(why(materials, full(1e-9), facts=facts))
    assert "2 of 3 questions begin unlike any that the model is known to answer" in reasons


def test_a_model_that_answers_no_question_at_all_is_recognised(materials):  # noqa: F811
    assert any(
        "the model answers no held-out question either (towns)" in reason for reason in why(materials, full(1e-9))
    )


def test_sentences_learned_without_their_questions_are_recognised(materials):  # noqa: F811
    """The tiny model learns its sentences by heart, and never saw a question with its answer."""
    facts = [
        replace(fact, statements=fact.statements[:1], questions=(replace(fact.questions[0], question="????????"),))
        for fact in materials.facts
    ]
    stream = StreamConfig(num_facts=6, num_wordings=1, num_passes=60)
    evaluation = replace(trial_with(full(1e-9)).evaluation, max_new_tokens=4)
    reasons = " ".join(why(materials, full(0.01), facts=facts, stream=stream, evaluation=evaluation))
    assert "of the sentences that it was trained on, and answers no question about them" in reasons


def test_the_advice_for_a_frozen_method_names_no_rate(materials):  # noqa: F811
    assert not any("rate" in reason for reason in why(materials, InContextConfig()))


def test_facts_that_the_model_already_knew_are_reported(materials):  # noqa: F811
    trial = trial_with(full(1e-9))
    result, learned = run_trial(trial, base_model(materials.tokenizer, MEMORY, dense=True), materials, key="k")
    known = replace(result.end[LEARNING_SET], items=tuple(1.0 for _ in result.end[LEARNING_SET].items))
    result = replace(result, start={**result.start, LEARNING_SET: known}, end={**result.end, LEARNING_SET: known})
    (reason,) = reasons_nothing_was_learned(trial, result, learned, materials, facts_of(trial, materials))
    assert "answered every one of them before" in reason


def test_a_trial_that_learns_has_learned(materials):  # noqa: F811
    facts = [Fact(id=fact.id, statements=(f"Question: {fact.questions[0].question}\nAnswer: {fact.questions[0].answers[0]}",), questions=fact.questions) for fact in materials.facts]  # fmt: skip
    stream = StreamConfig(num_facts=6, num_wordings=1, num_passes=80)
    trial = replace(trial_with(full(0.01)), stream=stream)
    trial = replace(trial, evaluation=replace(trial.evaluation, max_new_tokens=8))
    model = base_model(materials.tokenizer, MEMORY, dense=True)
    result, _ = run_trial(trial, model, replace(materials, facts=facts), key="k")
    assert has_learned(result)


@pytest.mark.parametrize("values", [((0.0,), (0.0,)), ((0.5,), (0.5,)), ((0.5,), (0.4,))])
def test_a_trial_without_more_right_answers_has_learned_nothing(materials, values):  # noqa: F811
    trial = trial_with(full(1e-9))
    result, _ = run_trial(trial, base_model(materials.tokenizer, MEMORY, dense=True), materials, key="k")
    start, end = (replace(result.end[LEARNING_SET], items=items) for items in values)
    assert not has_learned(replace(result, start={LEARNING_SET: start}, end={LEARNING_SET: end}))
