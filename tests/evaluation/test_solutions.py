import pytest

from memlm.data.questions.records import Question, QuestionError
from memlm.evaluation import solutions
from memlm.evaluation.continuations import Continuation, continuation_nats
from memlm.evaluation.question_answering import PROMPT
from memlm.evaluation.solutions import final_number, score_solutions
from memlm.model.reader import Reader
from tests.support.asking import new_model, new_tokenizer


def problem(number):
    solution = f"{number} + 1 = <<{number}+1={number + 1}>>{number + 1}\n#### {number + 1}"
    return Question(id=str(number), question=f"What is {number}?", answers=(str(number + 1),), solution=solution)


PROBLEMS = [problem(number) for number in (1, 20, 3)]


@pytest.mark.parametrize(
    ("solution", "number"),
    [
        ("2+2=4\n#### 4", "4"),
        ("#### 1,234,567 apples", "1234567"),
        ("#### -5", "-5"),
        ("#### 0.50", "0.50"),
        ("#### 7.", "7."),  # the official pattern takes the stop along, and 7. is then wrong
        ("#### 3\n#### 4", "3"),
        ("####4", ""),  # it wants one space
        ("#### $4", ""),
        ("the answer is 4", ""),
        ("", ""),
    ],
)
def test_the_final_number_is_found_by_the_official_pattern(solution, number):
    assert final_number(solution) == number


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return new_model(tokenizer)


def test_likelihood_is_that_of_the_solution_after_the_prompt(model, tokenizer):
    scores = score_solutions(Reader(model, tokenizer), PROBLEMS, max_new_tokens=0, batch_size=2)
    for each, nats in zip(PROBLEMS, scores.nats_per_token, strict=True):
        pair = Continuation(PROMPT.format(question=each.question), f" {each.solution}")
        (alone,) = continuation_nats(Reader(model, tokenizer), [pair], batch_size=1)
        assert nats == pytest.approx(alone.nats / alone.num_tokens, rel=1e-4)
    assert scores.final_number == ()  # nothing was to be written


def test_the_models_own_solutions_are_read_to_the_next_question(model, tokenizer, monkeypatch):
    asked = {}

    def complete(reader, prompts, *, until, max_new_tokens, **options):
        asked.update(prompts=prompts, until=until, max_new_tokens=max_new_tokens)
        return ["1 + 1 = 2\n#### 2", "#### 3", "#### 1,0\n"]

    monkeypatch.setattr(solutions, "complete", complete)
    scores = score_solutions(
        Reader(model, tokenizer), PROBLEMS[:2], examples=PROBLEMS[2:], max_new_tokens=9, batch_size=2
    )
    assert scores.final_number == (1.0, 0.0)
    assert asked["until"] == "Question:"
    assert asked["max_new_tokens"] == 9
    shown = f"Question: What is 3?\nAnswer: {PROBLEMS[2].solution}\n\n"
    assert asked["prompts"][0] == f"{shown}Question: What is 1?\nAnswer:"


def test_a_solution_has_several_lines(model, tokenizer):
    """The generation does not stop at the end of a line, as answers do."""
    scores = score_solutions(Reader(model, tokenizer), PROBLEMS, max_new_tokens=5, batch_size=2)
    assert len(scores.final_number) == 3


def test_problems_without_solutions_are_refused(model, tokenizer):
    bare = Question(id="x", question="?", answers=("1",))
    for problems, examples in (([bare], []), (PROBLEMS, [bare])):
        with pytest.raises(QuestionError, match="x: has no worked solution"):
            score_solutions(Reader(model, tokenizer), problems, examples=examples, max_new_tokens=0, batch_size=2)
