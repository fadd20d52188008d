"""Examples that stand before the questions of several sets, as keys and values that are computed
once."""

import pytest

from memlm.data.questions.records import Question, TaskChoice
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.question_answering import after_examples, answer_nats, answer_questions
from memlm.evaluation.suite import evaluate_questions
from memlm.evaluation.tasks import TASKS, exam_of
from memlm.model.reader import Reader
from tests.support.asking import WORDS, new_model, new_tokenizer

QUESTIONS = [Question(id=word, question=f"Where is the {word}?", answers=(word,)) for word in WORDS]


@pytest.mark.parametrize("dense", [True, False])
def test_answers_behind_shared_examples_are_those_of_whole_prompts(dense):
    tokenizer = new_tokenizer()
    model = new_model(tokenizer, dense=dense)
    examples, asked = QUESTIONS[:3], QUESTIONS[3:]
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
    with after_examples(reader, QUESTIONS[:3]) as behind:
        expected = answer_questions(behind, QUESTIONS[3:], **settings)
    with reader.recording():
        answer_questions(reader, QUESTIONS[3:], **settings)
        with after_examples(reader, QUESTIONS[:3]) as behind:
            assert answer_questions(behind, QUESTIONS[3:], **settings) == expected


def test_they_stand_before_short_answers_whose_task_shows_none_of_its_own():
    shared = QUESTIONS[:2]

    def examples_of(task, **choice):
        return exam_of("mine", QUESTIONS, TaskChoice(task=task, **choice), shared)

    asked = {name for name, task in TASKS.items() if task.kind is Question}
    sharing = {name for name in asked if examples_of(name).shared_examples}
    assert sharing == {"questions", "triviaqa", "entityquestions", "simpleqa"}
    assert examples_of("triviaqa").label == "mine:triviaqa@2,2-shot"
    assert examples_of("triviaqa").nats_label == "mine_nats:triviaqa@1,2-shot"
    assert examples_of("triviaqa").asked == QUESTIONS
    assert examples_of("nq_open").label == "mine:nq_open@2"
    assert examples_of("triviaqa", num_examples=0).label == "mine:triviaqa@2"


def test_new_facts_are_asked_behind_them():
    tokenizer = new_tokenizer()
    reader, config = Reader(new_model(tokenizer), tokenizer), EvaluationConfig(max_new_tokens=6, batch_size=4)
    scores = evaluate_questions(reader, "new_facts", QUESTIONS[3:], config, QUESTIONS[:3])
    whole = answer_questions(reader, QUESTIONS[3:], examples=QUESTIONS[:3], max_new_tokens=6, batch_size=4)
    nats = answer_nats(reader, QUESTIONS[3:], examples=QUESTIONS[:3], batch_size=4)
    assert tuple(each.answer for each in scores.answers["new_facts"]) == whole.answers
    expected = sum(each.nats_per_token for each in nats) / len(nats)
    assert scores.extra["new_facts_answer_nats"] == pytest.approx(expected, rel=1e-4)
    assert scores.sets["new_facts"].task == "new_facts@2,3-shot"
