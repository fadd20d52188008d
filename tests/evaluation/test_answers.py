import pytest

from memlm.data.questions import Question
from memlm.evaluation.answers import constant_answer_chance, exact_match, f1, normalize


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles!", "beatles"),
        ("  an  Apple a\tday\n", "apple day"),
        ("U.S.", "us"),  # TriviaQA's own scorer says "u s"
        ("snake_case", "snakecase"),
        ("Theatre another", "theatre another"),
        ("the–end", "–end"),  # an article ends at any non-word character, as in the official scorer
        ("A.", ""),
        ("l’Été", "l’été"),
        ("", ""),
    ],
)
def test_normalization_follows_squad(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the Beatles", ["Queen", "Beatles"], 1.0),
        ("The Beatles band", ["Beatles"], 0.0),
        ("", ["Beatles"], 0.0),
        ("1,234", ["1234"], 1.0),
    ],
)
def test_exact_match(prediction, answers, expected):
    assert exact_match(prediction, answers) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the Beatles", ["Beatles"], 1.0),
        ("Ada King Lovelace", ["Ada Lovelace"], 0.8),  # precision 2/3, recall 1
        ("Ada King Lovelace", ["Grace Hopper", "Ada Lovelace"], 0.8),  # the best answer counts
        ("new new york", ["new york york"], 2 / 3),  # repeats count as often as in both
        ("Bern", ["Zürich"], 0.0),
        ("", ["Bern"], 0.0),
        ("The", ["A"], 1.0),  # both are empty after normalisation
    ],
)
def test_f1(prediction, answers, expected):
    assert f1(prediction, answers) == pytest.approx(expected)


@pytest.mark.parametrize("answers", [[], (), "Bern"])
def test_no_answers_or_one_bare_string_is_refused(answers):
    """A bare string would be compared letter by letter."""
    for score in (exact_match, f1):
        with pytest.raises(ValueError, match="non-empty list of strings"):
            score("B", answers)


def ask(relation, *answers):
    return Question(id="", question="?", answers=answers, relation=relation)


def test_chance_is_the_best_constant_answer_of_each_relation():
    questions = [
        ask("born in", "Bern"), ask("born in", "Berne", "the BERN"), ask("born in", "Basel"),
        ask("job", "poet"), ask("job", "qadi"),
    ]  # fmt: skip
    assert constant_answer_chance(questions) == (2 + 1) / 5
    assert constant_answer_chance(iter(questions)) == (2 + 1) / 5


def test_chance_without_relations_is_one_answer_for_all():
    assert constant_answer_chance([ask("", "4"), ask("", "5"), ask("", "4", "4."), ask("", "6")]) == 0.5


def test_chance_agrees_with_exact_match():
    questions = [ask("", "Bern", "Berne"), ask("", "berne"), ask("", "Basel")]
    best = max(
        sum(exact_match(constant, question.answers) for question in questions) / 3
        for constant in ("Bern", "Berne", "Basel")
    )
    assert constant_answer_chance(questions) == best


def test_chance_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no questions"):
        constant_answer_chance([])
