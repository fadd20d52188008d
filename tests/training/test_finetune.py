"""A whole trial, with and without a recording of the base model: the same scores and the same rows
to the bit."""

import math
from dataclasses import replace

import pytest
import torch

from memlm.data.config import StreamConfig
from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question, Update
from memlm.data.questions.streams import facts_of_stream
from memlm.data.tokenizer import train_tokenizer
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.fact_scores import seen_exact_match
from memlm.evaluation.suite import HeldOut
from memlm.evaluation.vocabulary import vocabulary_of
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig
from memlm.methods.in_context import InContextConfig
from memlm.methods.lora import LoRAConfig
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.model.config import ModelConfig
from memlm.model.language_model import build_model, model_config
from memlm.model.reader import Reader, Recording
from memlm.training import finetune
from memlm.training.backgrounds import count_background
from memlm.training.finetune import run_trial, score, score_held_out, score_learning
from memlm.training.finite import DivergedError
from memlm.training.materials import Materials, facts_of, reader_for, stream_of
from memlm.training.observers.observer import StreamObserver
from memlm.training.trial import Trial
from tests.support.tiny import MEMORIES, MEMORY, changed_rows, random_background, sparse_config, state

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
PEOPLE = ("Ada", "Bo", "Cleo", "Dag", "Eva", "Finn")
TOWNS = ("Rome", "Oslo", "Bern", "Lima", "Kiel", "York")


def question(number, text):
    return Question(id=str(number), question=text, answers=(TOWNS[number],))


def facts():
    return [
        Fact(
            id=str(number),
            statements=(f"{name} lives in {town}.", f"{town} is home to {name}.", f"The home of {name}: {town}"),
            questions=(question(number, f"Where does {name} live?"),),
        )
        for number, (name, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([statement for fact in facts() for statement in fact.statements] * 20, vocab_size=320)


@pytest.fixture(scope="module")
def materials(tokenizer):
    text = "".join(statement for fact in facts() for statement in fact.statements)
    tokens = torch.tensor(tokenizer(text)["input_ids"])[:60].view(4, 15).clone()
    tokens[:, 6] = tokenizer.eos_token_id
    held_out = {"towns": [question(number, f"What is the town of {PEOPLE[number]}?") for number in range(6)]}
    return Materials(
        tokenizer=tokenizer,
        facts=facts(),
        held_out=HeldOut(questions=held_out, text=tokens, vocabulary=vocabulary_of(tokenizer, tokens)),
        background=None,
    )


def base_model(tokenizer, memory, *, seed=0, dense=False):
    shape = ModelConfig(
        num_layers=3,
        hidden_size=12,
        num_attention_heads=2,
        intermediate_size=20,
        max_positions=64,
        initializer_range=0.3,
        memory=memory,
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    return build_model(model_config(shape, dense=dense, vocab_size=len(tokenizer), **ids), seed=seed).eval()


def trial_with(method, seed=0):
    stream = StreamConfig(num_facts=4, num_wordings=2, num_passes=2)
    return Trial(method=method, stream=stream, evaluation=EvaluationConfig(max_new_tokens=4, batch_size=3), seed=seed)


def test_learning_is_measured_in_seen_wordings_too_if_that_is_asked_for(materials):
    trial = trial_with(FullConfig(optimizer=OptimizerConfig(learning_rate=0.02)))
    asked = replace(
        trial,
        stream=replace(trial.stream, num_passes=60),
        evaluation=replace(trial.evaluation, seen_wordings=True),
    )
    result, learned = run_trial(asked, base_model(materials.tokenizer, MEMORY), materials, key="key")
    reader = Reader(learned, materials.tokenizer)
    assert result.extra["new_facts_seen"] == seen_exact_match(reader, facts_of(asked, materials), asked.evaluation)
    assert result.extra["new_facts_seen"] > 0.8
    for method, evaluation in ((trial.method, trial.evaluation), (InContextConfig(), asked.evaluation)):
        other = replace(trial, method=method, evaluation=evaluation)
        plain, _ = run_trial(other, base_model(materials.tokenizer, MEMORY), materials, key="key")
        assert "new_facts_seen" not in plain.extra


def recording_of(model, trial, materials, max_bytes=1 << 30):
    """A recording as the sweep makes and shares it."""
    reader = Reader(model, materials.tokenizer)
    with reader.recording(max_bytes=max_bytes) as held_out:
        score_held_out(trial, reader, materials)
    with reader.recording(max_bytes=max_bytes) as learning:
        for batch in stream_of(trial, materials):
            reader.record(batch.tokens)
        score_learning(trial, reader, materials)
    return Recording.unpack([held_out.pack(), learning.pack()])


def outcome(trial, model, materials):
    """A trial's result without its times, and the learned weights."""
    result, learned = run_trial(trial, model, materials, key="key")
    extra = {name: value for name, value in result.extra.items() if "seconds" not in name}
    return replace(result, extra=extra), state(learned)


def assert_same(ours, theirs):
    assert ours[0] == theirs[0]
    assert ours[1].keys() == theirs[1].keys()
    for name in ours[1]:
        assert torch.equal(ours[1][name], theirs[1][name]), name


def check_a_recording_changes_nothing(memory, materials, *, max_bytes=1 << 30, of_seed=0, **settings):
    trial = trial_with(sparse_config(6, **settings))
    models = [base_model(materials.tokenizer, memory) for _ in range(2)]
    materials = replace(materials, background=random_background(models[0]))
    recording = recording_of(base_model(materials.tokenizer, memory, seed=of_seed), trial, materials, max_bytes)
    plain = outcome(trial, models[0], materials)
    assert changed_rows(state(base_model(materials.tokenizer, memory)), plain[1])
    assert_same(outcome(trial, models[1], replace(materials, recording=recording)), plain)


@every_memory
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_trial_with_a_recording_is_the_plain_one_to_the_bit(memory, materials, kind):
    check_a_recording_changes_nothing(memory, materials, kind=kind, learning_rate=0.5)


@every_memory
@pytest.mark.parametrize("max_bytes", [0, 4000, 20_000])
def test_a_trial_with_a_partial_recording_is_the_plain_one_to_the_bit(memory, materials, max_bytes):
    check_a_recording_changes_nothing(memory, materials, max_bytes=max_bytes)


@every_memory
def test_proof_that_a_trial_continues_from_its_recording(memory, materials):
    with pytest.raises(AssertionError):
        check_a_recording_changes_nothing(memory, materials, of_seed=1)


@every_memory
def test_everything_that_a_trial_reads_is_recorded(memory, materials):
    """No forward pass of a trial begins at its tokens, except those that decode one token."""
    trial, model = trial_with(sparse_config(6)), base_model(materials.tokenizer, memory)
    materials = replace(materials, background=random_background(model))
    recording, begun = recording_of(model, trial, materials), []

    def note(_, positional, named):
        if positional or named.get("input_ids") is not None:
            begun.append(True)

    model.register_forward_pre_hook(note, with_kwargs=True)
    run_trial(trial, model, replace(materials, recording=recording), key="key")
    assert not begun
    outcome(trial, model, materials)
    assert begun  # the hook works


@pytest.mark.parametrize("method", [FullConfig(), LoRAConfig(rank=2)], ids=lambda method: method.name)
def test_methods_that_move_more_than_values_do_not_use_the_recording(materials, method):
    models = [base_model(materials.tokenizer, MEMORY) for _ in range(3)]
    trial = trial_with(replace(method, optimizer=OptimizerConfig(learning_rate=0.05)))
    recording = recording_of(models[0], trial, materials)
    assert_same(
        outcome(trial, models[1], replace(materials, recording=recording)),
        outcome(trial, models[2], materials),
    )


def test_a_given_start_is_not_computed_again(materials):
    model = base_model(materials.tokenizer, MEMORY)
    materials = replace(materials, background=random_background(model))
    trial = trial_with(sparse_config(6))
    start = score(trial, reader_for(trial, model, materials), materials)
    assert start.sets.keys() == {"new_facts", "towns", "towns_nats", "text", "text_ends"}
    other = replace(start, sets={name: replace(value, items=(0.5,)) for name, value in start.sets.items()})
    assert run_trial(trial, model, materials, key="key", start=other)[0].start == other.sets


@pytest.mark.parametrize("source", ["new_facts", "held_out_questions"])
def test_an_ablation_ranks_against_the_texts_it_names(materials, source):
    """Its background is the facts' statements, or the held-out prompts, and none of the run's own
    counts."""
    model, base = base_model(materials.tokenizer, MEMORY), base_model(materials.tokenizer, MEMORY)
    own, given = replace(random_background(model), num_sequences=74), []
    ids = {"eos_id": materials.tokenizer.eos_token_id, "pad_id": materials.tokenizer.pad_token_id}
    text = BackgroundText(blocks=torch.zeros(1, 40, dtype=torch.int64), **ids)

    class Started(StreamObserver):
        def on_start(self, method):
            given.append(method.living.counts)

    trial = trial_with(replace(sparse_config(6), background=source))
    run_trial(trial, model, replace(materials, background=own, text=text), key="key", observer=Started())
    (background,) = given
    assert (background.num_batches, background.num_tokens) == (37, 74 * 40), "as many blocks as the run's, without pads"

    def accesses(of: str) -> torch.Tensor:
        facts = facts_of_stream(trial.stream, materials.facts, seed=0)
        counted = count_background(of, base, facts, materials.held_out, materials.tokenizer, text=text, background=own)
        return counted.accesses

    other = "held_out_questions" if source == "new_facts" else "new_facts"
    assert torch.equal(background.accesses, accesses(source)) and not torch.equal(background.accesses, accesses(other))


def test_a_diverged_trial_is_reported(materials):
    model = base_model(materials.tokenizer, MEMORY)
    materials = replace(materials, background=random_background(model))
    with pytest.raises(DivergedError, match="learning_rate"):
        run_trial(trial_with(sparse_config(6, learning_rate=math.inf)), model, materials, key="key")


def test_the_likelihood_gain_of_the_new_answers_is_their_drop_in_nats(materials):
    """The facts are learned at a rate that moves them, and scored before and after."""
    trial = trial_with(FullConfig(optimizer=OptimizerConfig(learning_rate=0.01)))
    model = base_model(materials.tokenizer, MEMORY, dense=True)
    before = score(trial, reader_for(trial, model, materials), materials).extra["new_facts_answer_nats"]
    result, learned = run_trial(trial, model, materials, key="key")
    after = score(trial, reader_for(trial, learned, materials), materials).extra["new_facts_answer_nats"]
    assert result.extra["new_facts_answer_nats_gained"] == before - after > 0


def test_a_checkpoint_that_is_not_finite_is_refused_without_blaming_the_rate(materials):
    trial, model = trial_with(FullConfig()), base_model(materials.tokenizer, MEMORY, dense=True)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    message = "the score new_facts_answer_nats is nan.*name another checkpoint"
    with pytest.raises(DivergedError, match=message):
        score(trial, reader_for(trial, model, materials), materials)
    with pytest.raises(DivergedError, match=message):
        run_trial(trial, model, materials, key="key")


def test_finite_weights_that_are_too_large_to_compute_with_have_diverged(materials, monkeypatch):
    trial, model = trial_with(FullConfig()), base_model(materials.tokenizer, MEMORY, dense=True)
    start = score(trial, reader_for(trial, model, materials), materials)

    def learn(method, *_):
        with torch.no_grad():
            method.model.lm_head.weight.fill_(torch.finfo(torch.float32).max)
        return 7

    monkeypatch.setattr(finetune, "_learn", learn)
    with pytest.raises(DivergedError, match=r"a score is not finite after step 7; .*learning_rate .* is too high"):
        run_trial(trial, model, materials, key="key", start=start)


def updates(neighbour="What is the town of Zoe?"):
    """Each fact replaces the town of the next one; all have one neighbour of their own."""
    near = [Question(id=f"near {number}", question=neighbour, answers=("Rome",)) for number in range(6)]
    return {
        str(number): Update(
            fact=str(number), replaces=TOWNS[number - 1], same_subject=(near[number],), same_relation=(near[number],)
        )
        for number in range(6)
    }


def test_updates_are_scored_on_old_answers_and_neighbours_before_and_after(materials):
    trial, model = trial_with(FullConfig()), base_model(materials.tokenizer, MEMORY, dense=True)
    plain, _ = run_trial(trial, base_model(materials.tokenizer, MEMORY, dense=True), materials, key="key")
    result, _ = run_trial(trial, model, replace(materials, updates=updates()), key="key")
    added = result.start.keys() - plain.start.keys()
    assert (
        added
        == result.end.keys() - plain.end.keys()
        == {
            f"{name}{measure}" for name in ("old_answers", "same_subject", "same_relation") for measure in ("", "_nats")
        }
    )
    assert all(len(score.items) == 4 for name, score in result.end.items() if name in {"new_facts", *added})
    assert {name: score for name, score in result.end.items() if name not in added} == plain.end
