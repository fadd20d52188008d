import pytest

from memlm.data.config import QUESTION_TASKS
from memlm.data.questions.layouts import LAYOUTS
from memlm.data.questions.records import MultipleChoice, Question, QuestionError, TaskChoice
from memlm.evaluation.tasks import TASKS, default_task, exam_of

QUESTIONS = [Question(id=str(i), question=f"{i}?", answers=("a",), solution="#### 1") for i in range(8)]
CHOICES = [MultipleChoice(id=str(i), query="It", choices=("a", "b"), gold=0) for i in range(8)]


def records_of(task):
    return CHOICES if TASKS[task].kind is MultipleChoice else QUESTIONS


def test_every_specific_layout_has_its_own_task():
    assert set(LAYOUTS) - set(TASKS) == {"fields"}
    assert {default_task(QUESTIONS, layout) for layout in LAYOUTS} == {*LAYOUTS} - {"fields"} | {"questions"}
    assert default_task(CHOICES, "fields") == default_task(CHOICES) == "multiple_choice"


@pytest.mark.parametrize("task", TASKS)
def test_a_label_names_task_version_and_unusual_examples(task):
    own = TASKS[task].num_examples
    version = TASKS[task].version
    general = task in ("questions", "multiple_choice")
    assert exam_of(task, records_of(task), TaskChoice(task=task)).label == f"{task}@{version}"
    named = exam_of("mine", records_of(task), TaskChoice(task=task, num_examples=own)).label
    assert named == (f"mine@{version}" if general else f"mine:{task}@{version}")
    assert exam_of(task, records_of(task), TaskChoice(task=task, num_examples=3)).label == f"{task}@{version},3-shot"


@pytest.mark.parametrize(("num_examples", "expected"), [(-1, 5), (0, 0), (2, 2), (7, 7)])
def test_examples_are_the_last_records_and_never_asked(num_examples, expected):
    exam = exam_of("nq_open", QUESTIONS, TaskChoice(task="nq_open", num_examples=num_examples))
    assert len(exam.examples) == expected
    assert [*exam.asked, *exam.examples] == QUESTIONS


@pytest.mark.parametrize(
    ("records", "choice", "reason"),
    [
        (QUESTIONS, TaskChoice(task="nq_open", num_examples=8), "8 examples leave none of 8 records"),
        (QUESTIONS[:5], TaskChoice(task="nq_open"), "5 examples leave none of 5 records"),
        (QUESTIONS, TaskChoice(task="hellaswag"), "needs choices"),
        (CHOICES, TaskChoice(task="triviaqa"), "needs questions with answers"),
        ([], TaskChoice(), "needs questions with answers"),
        (QUESTIONS, TaskChoice(task="trivia_qa"), "'trivia_qa'; did you mean 'triviaqa'?"),
    ],
)
def test_a_set_that_cannot_be_asked_is_refused(records, choice, reason):
    with pytest.raises(QuestionError) as refused:
        exam_of("mine", records, choice)
    assert str(refused.value).startswith("mine: ")
    assert reason in str(refused.value)


def test_a_config_may_name_every_task_and_no_other():
    assert set(QUESTION_TASKS) == set(TASKS)
