"""A traced trial: to the bit the one that nobody watches, and scores taken at the right moments."""

from dataclasses import replace

import pytest
import torch

from memlm.evaluation.fact_scores import score_facts
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig
from memlm.methods.lora import LoRAConfig
from memlm.model.reader import Reader
from memlm.training.finetune import run_trial
from memlm.training.materials import facts_of, stream_of
from memlm.training.observers.observer import StreamObserver
from memlm.training.observers.stream_trace import StreamTracer
from tests.support.tiny import MEMORIES, MEMORY, random_background, sparse_config, state
from tests.training.test_finetune import base_model, materials, tokenizer, trial_with  # noqa: F401

METHODS = [
    sparse_config(6, learning_rate=0.5),
    sparse_config(6, kind="adamw", learning_rate=0.1),
    FullConfig(optimizer=OptimizerConfig(learning_rate=0.01)),
    LoRAConfig(rank=2, optimizer=OptimizerConfig(learning_rate=0.05)),
]


def with_background(materials, memory=MEMORY):  # noqa: F811
    return replace(materials, background=random_background(base_model(materials.tokenizer, memory)))


def traced(method, materials, memory=MEMORY, **settings):  # noqa: F811
    trial, materials = trial_with(method), with_background(materials, memory)
    tracer = StreamTracer(trial, materials, held_out=materials.held_out.questions, **settings)
    result, learned = run_trial(trial, base_model(materials.tokenizer, memory), materials, key="key", observer=tracer)
    return trial, materials, tracer, result, learned


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(each, id=name, marks=[] if each is MEMORY else [pytest.mark.slow])
        for name, each in MEMORIES.items()
    ],
)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_a_traced_trial_is_the_plain_one_to_the_bit(materials, method, memory):  # noqa: F811
    trial, materials, _, result, learned = traced(method, materials, memory, num_points=100)
    plain, unwatched = run_trial(trial, base_model(materials.tokenizer, memory), materials, key="key")
    assert result.end == plain.end and result.start == plain.start
    ours, theirs = state(learned), state(unwatched)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_every_fact_is_scored_right_after_its_last_step(materials, method):  # noqa: F811
    """Recomputed with an observer that keeps the weights of every step."""
    trial, materials, tracer, _, _ = traced(method, materials)
    models, last = {}, {}

    class Keeper(StreamObserver):
        def on_step(self, step, batch, result, method):
            last[batch.fact_id] = step
            reader = Reader(method.learning_model.eval(), materials.tokenizer)
            models[step] = score_facts(reader, facts_of(trial, materials), trial.evaluation, tracer.wordings)
            method.model.train()

    run_trial(trial, base_model(materials.tokenizer, MEMORY), materials, key="key", observer=Keeper())
    facts = [fact.id for fact in facts_of(trial, materials)]
    traces = tracer.traces()
    assert [trace.fact_id for trace in traces] == facts
    for place, trace in enumerate(traces):
        assert trace.step == last[trace.fact_id]
        assert trace.after.nats_per_token == pytest.approx(models[trace.step][place].nats_per_token, rel=1e-4)
        assert trace.end.nats_per_token == pytest.approx(models[max(models)][place].nats_per_token, rel=1e-4)
    assert max(trace.step for trace in traces) == len(models) == 8
    assert min(trace.step for trace in traces) > 4  # of the second pass, not of the first
    assert len({round(trace.after.nats_per_token - trace.start.nats_per_token, 6) for trace in traces}) > 1


def test_seen_wordings_are_those_that_the_stream_draws(materials):  # noqa: F811
    trial, materials, tracer, _, _ = traced(METHODS[0], materials)
    drawn = {fact.id: set() for fact in facts_of(trial, materials)}
    for batch in stream_of(trial, materials):
        for tokens, is_token in zip(batch.tokens, batch.is_token, strict=True):
            drawn[batch.fact_id].add(materials.tokenizer.decode(tokens[is_token][:-1]))
    assert {id: set(wordings) for id, wordings in tracer.wordings.items()} == drawn
    assert all(2 <= len(wordings) <= 3 for wordings in drawn.values())


def test_the_trainable_slots_of_each_fact_are_those_of_its_last_step(materials):  # noqa: F811
    _, _, tracer, _, _ = traced(METHODS[0], materials)
    assert all(len(slots) == 6 and list(slots) == sorted(set(slots)) for slots in tracer.slots.values())
    assert len(set(tracer.slots.values())) > 1
    metrics = tracer.metrics()
    assert metrics["shared_slots"]["slots_per_fact"]["mean"] == 6
    assert metrics["method"] == "sparse_memory" and metrics["num_steps"] == 8
    _, _, dense, _, _ = traced(METHODS[2], materials)
    assert dense.metrics()["shared_slots"] is None


def test_the_curve_spans_the_stream_and_is_reported_as_it_grows(materials):  # noqa: F811
    points = []
    _, _, tracer, result, _ = traced(METHODS[2], materials, num_points=4, on_point=points.append)
    assert [point.step for point in points] == [0, 2, 4, 6, 8] and points == tracer.curve
    assert points[0].held_out["towns"] == result.start["towns"].value
    assert points[-1].held_out["towns"] == result.end["towns"].value
    assert points[-1].exact_match == pytest.approx(result.end["new_facts"].value)
    assert points[-1].nats_per_token != points[0].nats_per_token


def test_facts_without_questions_are_learned_and_not_scored(materials):  # noqa: F811
    silent = [replace(fact, questions=()) if place % 2 else fact for place, fact in enumerate(materials.facts)]
    trial, _, tracer, result, _ = traced(METHODS[0], replace(materials, facts=silent))
    drawn = facts_of(trial, replace(materials, facts=silent))
    asked = [fact.id for fact in drawn if fact.questions]
    assert 0 < len(asked) < len(drawn)
    assert sorted(trace.fact_id for trace in tracer.traces()) == sorted(asked)
    metrics = tracer.metrics()
    assert metrics["num_facts"] == len(asked) and metrics["num_steps"] == result.extra["steps"]
