"""All tasks together: the scores of each, which reading from a recording does not change."""

import math
from collections import Counter
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from memlm.data.questions.records import MultipleChoice, Question, TaskChoice
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.continuations import Continuation, continuation_nats, encode
from memlm.evaluation.question_answering import after_examples, answer_nats, answer_questions, prompts_of
from memlm.evaluation.suite import HeldOut, evaluate, evaluate_held_out, evaluate_questions
from memlm.evaluation.tasks import TASKS, exam_of
from memlm.evaluation.vocabulary import vocabulary_of
from memlm.model.reader import Reader
from tests.support.asking import WORDS, new_model, new_tokenizer

QUESTIONS = [
    Question(
        id=f"{i // 2}#{i % 2}",
        question=f"Where is the {a}?",
        answers=(b,),
        solution=f"It is {b}.\n#### {i}",
        fact=str(i // 2),
    )
    for i, (a, b) in enumerate(zip(WORDS, reversed(WORDS), strict=True))
]
CHOICES = [
    MultipleChoice(id=str(i), query=f"The {word}", choices=("is red", "was a tree", "is"), gold=i % 3)
    for i, word in enumerate(WORDS)
]
ASKED = ("questions", "triviaqa", "nq_open", "entityquestions", "simpleqa")
"""Tasks that are answered with text."""
CONFIG = EvaluationConfig(max_new_tokens=3, max_solution_tokens=4, batch_size=5, num_text_blocks=4)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = new_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer):
    return new_model(tokenizer)


@pytest.fixture(scope="module")
def held_out(tokenizer):
    text = tokenizer(" ".join(WORDS) * 4)["input_ids"][:60]
    kinds = {name: CHOICES if task.kind is MultipleChoice else QUESTIONS for name, task in TASKS.items()}
    blocks = torch.tensor(text).view(4, 15)
    blocks[:2, 6] = tokenizer.eos_token_id
    return HeldOut(
        questions=kinds,
        tasks={name: TaskChoice(task=name) for name in kinds},
        text=blocks,
        vocabulary=vocabulary_of(tokenizer, blocks),
    )


@pytest.fixture(scope="module")
def scores(model, tokenizer, held_out):
    return evaluate(Reader(model, tokenizer), QUESTIONS, held_out, CONFIG)


def test_every_task_gives_its_primary_measure_and_the_others(scores):
    measures = {name: score.measure for name, score in scores.sets.items()}
    assert measures == {
        "new_facts": "exact_match",
        **{name: task.measure for name, task in TASKS.items()},
        **{f"{name}_nats": "nats_per_token" for name in ASKED},
        "text": "nats_per_token",
        "text_ends": "nats_per_token",
    }
    assert scores.extra.keys() == {
        *(f"{name}_f1" for name in ("new_facts", *ASKED)),
        "multiple_choice_acc_norm",
        "hellaswag_acc_norm",
        "gsm8k_final_number",
        "text_perplexity",
        "text_bits_per_byte",
        "new_facts_answer_nats",
    }
    assert scores.sets["gsm8k"].is_loss and scores.sets["nq_open_nats"].is_loss
    assert scores.sets["hellaswag"].chance == pytest.approx(1 / 3)
    assert scores.sets["new_facts"].task == "new_facts@2"
    assert [scores.sets[name].task for name in ("nq_open_nats", "text")] == ["nq_open_nats@1", "text@2"]


def test_items_are_facts_and_examples_are_not_among_them(scores):
    assert len(scores.sets["triviaqa"].items) == 6  # two wordings each
    assert len(scores.sets["nq_open"].items) == 4  # 12 questions less 5 examples: 3 facts and a half
    assert len(scores.sets["hellaswag"].items) == 12
    for name in ASKED:
        assert len(scores.sets[f"{name}_nats"].items) == len(scores.sets[name].items)


def test_a_block_without_an_end_has_no_item_among_the_ends(scores):
    assert [len(scores.sets[name].items) for name in ("text", "text_ends")] == [4, 2]


def test_items_have_six_decimals(scores):
    for score in scores.sets.values():
        assert score.items == tuple(round(item, 6) for item in score.items)
    assert any(item != round(item, 5) for item in scores.sets["text"].items)


def test_answers_are_as_likely_as_after_the_prompt_they_are_asked_with(model, tokenizer, scores):
    for name, num_examples in (("triviaqa", 0), ("nq_open", 5)):
        asked, examples = QUESTIONS[: 12 - num_examples], QUESTIONS[12 - num_examples :]
        pairs = [
            Continuation(prompt, f" {question.answers[0]}")
            for prompt, question in zip(prompts_of(asked, examples), asked, strict=True)
        ]
        nats = [each.nats_per_token for each in continuation_nats(Reader(model, tokenizer), pairs, batch_size=1)]
        facts = [nats[start : start + 2] for start in range(0, len(nats), 2)]
        expected = [sum(fact) / len(fact) for fact in facts]
        assert scores.sets[f"{name}_nats"].items == pytest.approx(expected, abs=1e-5)


def test_chance_of_a_loss_is_the_unigram_models_score_on_the_same_tokens(tokenizer, held_out, scores):
    counts = Counter(held_out.text.flatten().tolist())
    total = sum(counts.values()) + len(tokenizer)

    def nats(token):
        return -math.log((counts[token] + 1) / total)

    rows = held_out.text[:, 1:].tolist()
    text = [fmean(nats(token) for token in row if token != tokenizer.eos_token_id) for row in rows]
    assert scores.sets["text"].chance == pytest.approx(fmean(text), abs=1e-6)
    assert scores.sets["text_ends"].chance == pytest.approx(nats(tokenizer.eos_token_id), abs=1e-6)
    prompts = prompts_of(QUESTIONS)
    for name, answers in (
        ("simpleqa_nats", [question.answers[0] for question in QUESTIONS]),
        ("gsm8k", [question.solution for question in QUESTIONS]),
    ):
        pairs = [Continuation(prompt, f" {answer}") for prompt, answer in zip(prompts, answers, strict=True)]
        means = [fmean(map(nats, tokens[start:])) for tokens, start in encode(tokenizer, pairs, 256)]
        assert scores.sets[name].chance == pytest.approx(fmean(means), abs=1e-6)


def test_without_a_choice_a_set_is_asked_in_the_general_way(model, tokenizer, held_out, scores):
    plain = replace(held_out, questions={"questions": QUESTIONS, "multiple_choice": CHOICES}, tasks={})
    found = evaluate_held_out(Reader(model, tokenizer), plain, CONFIG)
    assert found.sets == {name: scores.sets[name] for name in found.sets}


def test_no_solutions_are_written_if_none_are_requested(model, tokenizer, held_out):
    only = replace(held_out, questions={"gsm8k": QUESTIONS})
    found = evaluate_held_out(Reader(model, tokenizer), only, replace(CONFIG, max_solution_tokens=0))
    assert "gsm8k_final_number" not in found.extra


@pytest.mark.parametrize("max_bytes", [1 << 30, 60_000])
def test_recording_changes_no_score(model, tokenizer, held_out, scores, max_bytes):
    reader = Reader(model, tokenizer)
    with reader.recording(max_bytes=max_bytes) as recording:
        recorded = evaluate_held_out(reader, held_out, CONFIG)
    assert recording.pack().contents and recording.is_full == (max_bytes < 1 << 20)
    found = evaluate_held_out(Reader(model, tokenizer, recording), held_out, CONFIG)
    expected = {name: score for name, score in scores.sets.items() if name != "new_facts"}
    assert recorded.sets == found.sets == expected
    assert [name for name in found.sets if not name.endswith("_nats")] == [*TASKS, "text", "text_ends"]


def test_text_is_recorded_before_the_sets(model, tokenizer, held_out):
    """Text saves the most time for its bytes."""
    reader = Reader(model, tokenizer)
    with reader.recording() as recording:
        evaluate_held_out(reader, held_out, CONFIG)
    with_positions = [has_positions for has_positions, _ in recording.pack().contents.values()]
    assert with_positions == sorted(with_positions, reverse=True) and any(with_positions)


def test_questions_that_are_not_merged_are_scored_one_by_one(model, tokenizer):
    alone = [replace(question, fact="") for question in QUESTIONS]
    found = evaluate_questions(Reader(model, tokenizer), "set", alone, CONFIG)
    assert len(found.sets["set"].items) == len(alone) == 12


PLACES = [Question(id=word, question=f"Where is the {word}?", answers=(word,)) for word in WORDS]


@pytest.mark.parametrize("dense", [True, False])
def test_answers_behind_shared_examples_are_those_of_whole_prompts(dense):
    tokenizer = new_tokenizer()
    model = new_model(tokenizer, dense=dense)
    examples, asked = PLACES[:3], PLACES[3:]
    reader, settings = Reader(model, tokenizer), {"max_new_tokens": 6, "batch_size": 4}
    whole = answer_questions(reader, asked, examples=examples, **settings)
    nats = answer_nats(reader, asked, examples=examples, batch_size=4)
    with after_examples(reader, examples) as behind:
        assert answer_questions(behind, asked, **settings) == whole
        for one, other in zip(answer_nats(behind, asked, batch_size=4), nats, strict=True):
            assert one.nats == pytest.approx(other.nats, rel=1e-4)
    assert answer_questions(reader, asked, **settings) != whole, "the examples matter, and are gone"
    with after_examples(reader, ()) as same:
        assert same is reader


def test_a_recording_is_not_read_behind_examples():
    """It is of texts that stand behind nothing."""
    tokenizer = new_tokenizer()
    reader = Reader(new_model(tokenizer), tokenizer)
    settings = {"max_new_tokens": 6, "batch_size": 4}
    with after_examples(reader, PLACES[:3]) as behind:
        expected = answer_questions(behind, PLACES[3:], **settings)
    with reader.recording():
        answer_questions(reader, PLACES[3:], **settings)
        with after_examples(reader, PLACES[:3]) as behind:
            assert answer_questions(behind, PLACES[3:], **settings) == expected


def test_they_stand_before_short_answers_whose_task_shows_none_of_its_own():
    shared = PLACES[:2]

    def examples_of(task, **choice):
        return exam_of("mine", PLACES, TaskChoice(task=task, **choice), shared)

    asked = {name for name, task in TASKS.items() if task.kind is Question}
    sharing = {name for name in asked if examples_of(name).shared_examples}
    assert sharing == {"questions", "triviaqa", "entityquestions", "simpleqa"}
    assert examples_of("triviaqa").label == "mine:triviaqa@2,2-shot"
    assert examples_of("triviaqa").nats_label == "mine_nats:triviaqa@1,2-shot"
    assert examples_of("triviaqa").asked == PLACES
    assert examples_of("nq_open").label == "mine:nq_open@2"
    assert examples_of("triviaqa", num_examples=0).label == "mine:triviaqa@2"


def test_new_facts_are_asked_behind_them():
    tokenizer = new_tokenizer()
    reader, config = Reader(new_model(tokenizer), tokenizer), EvaluationConfig(max_new_tokens=6, batch_size=4)
    scores = evaluate_questions(reader, "new_facts", PLACES[3:], config, PLACES[:3])
    whole = answer_questions(reader, PLACES[3:], examples=PLACES[:3], max_new_tokens=6, batch_size=4)
    nats = answer_nats(reader, PLACES[3:], examples=PLACES[:3], batch_size=4)
    assert tuple(each.answer for each in scores.answers["new_facts"]) == whole.answers
    expected = sum(each.nats_per_token for each in nats) / len(nats)
    assert scores.extra["new_facts_answer_nats"] == pytest.approx(expected, rel=1e-4)
    assert scores.sets["new_facts"].task == "new_facts@2,3-shot"
