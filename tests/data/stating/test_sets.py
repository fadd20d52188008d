import pytest

from memlm.data.config import FactsConfig
from memlm.data.questions.records import Question, QuestionError
from memlm.data.stating.sets import conflict_lines, kind_lines, statable

GOOD = [("Who founded Acme?", "Ada"), ("roman god of the underworld", "Pluto"), ("Where is Acme?", "Lima")]
BAD = [("Is Acme open?", "yes"), ("Wer gründete Acme?", "Ada")]


def questions(*pairs: tuple[str, str], relation: str = "") -> list[Question]:
    return [
        Question(id=f"f:{number}", question=question, answers=(answer,), relation=relation)
        for number, (question, answer) in enumerate(pairs, start=2)
    ]


def test_questions_that_make_no_sentence_are_refused_or_left_out_and_named():
    said: list[str] = []
    asked = questions(*GOOD, *BAD)
    with pytest.raises(QuestionError) as refused:
        statable(asked, FactsConfig(path="f.csv"), report=said.append)
    line = str(refused.value)
    assert "\n" not in line and "f.csv: templates cannot state 2 of 5 questions" in line
    for part in (
        "'Is Acme open?': it is answered by 'yes'",
        "(German)",
        "questions.facts.statements",
        "max_malformed_share",
    ):
        assert part in line
    kept = statable(asked, FactsConfig(path="f.csv", max_malformed_share=0.4), report=said.append)
    assert kept == asked[:3] and len(said) == 1 and said[0].endswith("they are left out")
    assert statable(asked[:3], FactsConfig(path="f.csv"), report=said.append) == asked[:3] and len(said) == 1


def test_a_set_without_a_statable_question_is_refused_at_any_share():
    with pytest.raises(QuestionError, match="2 of 2"):
        statable(questions(*BAD), FactsConfig(path="f.csv", max_malformed_share=0.99), report=print)


def test_the_number_of_facts_per_kind_of_template_is_reported():
    asked = [*questions(*GOOD), *questions(("Where was Ada born?", "Rome"), relation="P19")]
    assert list(kind_lines(asked)) == [
        "1 of 4 facts are stated in the wordings of their relation, such as: Ada was born in Rome.",
        "2 of 4 facts are stated as sentences, by their kind of question, such as: Ada founded Acme.",
        "1 of 4 facts are stated as topic and answer, since no rule fits, such as: Roman god of the underworld: Pluto.",
    ]


def test_two_answers_to_one_question_are_a_conflict():
    asked = questions(("Who founded Acme?", "Ada"), ("who founded  acme", "Bo"), ("Who founded Acme?", "ada."))
    (message,) = conflict_lines(asked)
    assert "'who founded  acme' has the answer 'Ada' in f:2 and 'Bo' in f:3" in message
    assert list(conflict_lines(questions(*GOOD))) == []
    many = questions(*(("Who founded Acme?", name) for name in "abcdefg"))
    assert len(list(conflict_lines(many))) == 4 and list(conflict_lines(many))[-1] == "conflict: 6 in all"


def test_a_conflict_is_found_behind_a_record_that_agrees_with_both():
    asked = [
        Question(id=str(number), question=question, answers=answers)
        for number, (question, answers) in enumerate(
            [
                ("Who founded Acme, Inc.?", ("Ada", "Bo")),
                ("Who founded Acme Inc", ("Bo",)),
                ("Who founded Acme Inc?", ("Ada",)),
            ]
        )
    ]
    (message,) = conflict_lines(asked)
    assert "has the answer 'Bo' in 1 and 'Ada' in 2" in message


def test_answers_equal_to_the_scorer_are_no_conflict():
    assert list(conflict_lines(questions(("What is it?", "the Nile"), ("What is it?", "Nile")))) == []


def test_answers_that_overlap_are_no_conflict():
    first = Question(id="1", question="Who?", answers=("Ada", "Ada Bell"))
    assert list(conflict_lines([first, Question(id="2", question="Who?", answers=("A. Bell", "ada bell"))])) == []
