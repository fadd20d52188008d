import pytest

from memlm.data.questions.records import Question
from memlm.evaluation.answers import (
    constant_answer_chance,
    exact_match,
    f1,
    normalize,
    normalize_nq_open,
    normalize_triviaqa,
)


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
    ("text", "squad", "triviaqa", "nq_open"),
    [
        ("U.S.", "us", "u s", "us"),
        ("Spider-Man", "spiderman", "spider man", "spiderman"),
        ("$1,000.50", "100050", "1 000 50", "100050"),
        ("A-Team", "ateam", "team", "ateam"),  # the article stands alone only where a space replaces the hyphen
        ("the-a-an", "theaan", "", "theaan"),
        ("snake_case", "snakecase", "snake case", "snakecase"),
        ("O’Neill", "o’neill", "o neill", "o’neill"),
        ("‘Heroes’", "‘heroes’", "heroes", "‘heroes’"),
        ("Rock`n´roll", "rockn´roll", "rock n roll", "rockn´roll"),
        ("“quoted”", "“quoted”", "“quoted”", "“quoted”"),  # typographic double quotes are nobody's punctuation
        ("5'11\"", "511", "5 11", "511"),
        ("C++", "c", "c", "c"),
        ("AN HOUR", "hour", "hour", "hour"),
        ("The The", "", "", ""),
        ("New\u00a0York", "new york", "new york", "new york"),
        ("Beyonc\u00e9", "beyonc\u00e9", "beyonc\u00e9", "beyonce\u0301"),
        ("Beyonce\u0301", "beyonce\u0301", "beyonce\u0301", "beyonce\u0301"),
        (
            "\u00e0 la carte",
            "\u00e0 la carte",
            "\u00e0 la carte",
            "\u0300 la carte",
        ),  # taken apart, the a is an article
        ("\u0130zmir", "i\u0307zmir", "i\u0307zmir", "i\u0307zmir"),
        ("zero\u200bwidth", "zero\u200bwidth", "zero\u200bwidth", "zero\u200bwidth"),
    ],
)
def test_each_set_is_normalized_as_its_own_scorer_does(text, squad, triviaqa, nq_open):
    assert (normalize(text), normalize_triviaqa(text), normalize_nq_open(text)) == (squad, triviaqa, nq_open)


def test_scores_use_the_normalization_asked_for():
    assert exact_match("Beyonce\u0301", ["Beyonc\u00e9"]) == 0
    assert exact_match("Beyonce\u0301", ["Beyonc\u00e9"], normalize_nq_open) == 1
    assert f1("Spider Man", ["Spider-Man"]) == 0
    assert f1("Spider Man", ["Spider-Man"], normalize_triviaqa) == 1
    questions = [Question(id=str(i), question="?", answers=(answer,)) for i, answer in enumerate(("A-B", "A B"))]
    assert constant_answer_chance(questions) == 0.5
    assert constant_answer_chance(questions, normalize_triviaqa) == 1


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
        ("The", ["A"], 0.0),  # nothing is left of either, so they are compared as they are written
        ("the who", ["The Who"], 1.0),
        ("", ["The"], 0.0),
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


@pytest.mark.parametrize("normalization", [normalize, normalize_triviaqa, normalize_nq_open])
@pytest.mark.parametrize("gold", ["The", "A", "!", "(a", "The The", "...", "*", "\u00b4"])
def test_gold_that_normalisation_empties_is_matched_only_as_written(gold, normalization):
    for blank in ("", " ", "\n"):
        assert exact_match(blank, [gold], normalization) == f1(blank, [gold], normalization) == 0
    assert exact_match(gold.lower(), [gold], normalization) == f1(gold, [gold], normalization) == 1
    assert exact_match("an", [gold], normalization) == 0
    assert constant_answer_chance([ask("", gold), ask("", "?")], normalization) == 0.5


def test_a_blank_answer_is_never_right():
    assert exact_match("", ["", "a"]) == f1("", ["", "a"]) == 0
