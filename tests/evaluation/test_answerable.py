import pytest

from memlm.data.encoding import encode
from memlm.data.questions.records import MultipleChoice, Question, TaskChoice
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.tasks import describe_unanswerable, exam_of
from tests.data.foreign_tokenizers import like_t5
from tests.support.asking import new_tokenizer

TOKENIZER = new_tokenizer()
LONG = "the river of the stone house north of the south tree"


def asked(*answers, id="q", solution=""):
    return Question(id=id, question="?", answers=answers, solution=solution)


def message_of(records, *, task="questions", **settings):
    exam = exam_of("set", records, TaskChoice(task=task, num_examples=0))
    return describe_unanswerable("set", exam, TOKENIZER, EvaluationConfig(**settings))


def test_an_answer_beyond_the_token_limit_is_named_with_both_numbers():
    needed = len(encode(TOKENIZER, f" {LONG}"))
    fewer = len(encode(TOKENIZER, " river of stone house north of south tree"))  # without articles it is as right
    assert fewer < needed
    message = message_of(
        [asked("red"), asked(LONG, id="long"), asked(LONG, "red", id="either")], max_new_tokens=fewer - 1
    )
    assert message == (
        f"set: 1 of 3 questions can never be answered right: 'long' needs {fewer} tokens, and evaluation.max_new_tokens is {fewer - 1}. "
        "Correct their answers, leave them out, or raise the limit."
    )
    assert message_of([asked(LONG)], max_new_tokens=fewer) == ""


def test_answers_of_several_lines_are_named_unless_one_fits_a_line():
    assert "'q' has a line break in each answer" in message_of([asked("red\nblue", "a\nb")])
    assert message_of([asked("red\nblue", "red"), asked(" red\n")]) == ""


@pytest.mark.parametrize(("answer", "solution"), [("$5", "Add.\n#### 5"), ("5", "Add.\n####5"), ("5.0", "#### 5")])
def test_a_number_that_does_not_end_the_solution_is_named(answer, solution):
    problems = [asked(answer, solution=solution), asked("5", id="good", solution="#### 5")]
    assert "1 of 2 questions can never be answered right: 'q' ends in" in message_of(problems, task="gsm8k")
    assert message_of(problems, task="gsm8k", max_solution_tokens=0) == ""  # none are written


def test_an_answer_that_the_tokenizer_cannot_write_is_named(tmp_path):
    exam = exam_of(
        "set", [asked("東京", id="kanji"), asked("Lima"), asked("東京", "Tokyo")], TaskChoice(num_examples=0)
    )
    message = describe_unanswerable("set", exam, like_t5(tmp_path), EvaluationConfig(max_new_tokens=20))
    assert "1 of 3" in message and "'kanji' has no answer that the tokenizer can write: '東京' becomes ''" in message


def test_a_right_choice_behind_an_equal_one_is_named():
    choices = [MultipleChoice(id=str(gold), query="It", choices=("a", "a", "b"), gold=gold) for gold in range(3)]
    assert "1 of 3 questions can never be answered right: '1' has the right choice a second time" in message_of(
        choices, task="multiple_choice"
    )


def test_choices_can_always_be_made_and_long_lists_are_counted():
    assert message_of([MultipleChoice(id="1", query="It", choices=("a\nb", "c"), gold=0)], task="multiple_choice") == ""
    many = message_of([asked("a\nb", id=str(number)) for number in range(25)])
    assert many.startswith("set: 25 of 25") and "'19' has" in many and "'20' has" not in many and "and 5 more" in many
