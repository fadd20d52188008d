"""Facts of one's own: stated and asked in the wordings of what they ask for."""

from pathlib import Path

import pytest

from memlm.data.config import FactsConfig, QuestionSetConfig
from memlm.data.mentions import mentions
from memlm.data.questions.questions import read_set, require_questions
from memlm.data.questions.records import Fact, Question
from memlm.data.stating.kinds import KINDS, asked_by_grammar, recognise, ways_asked
from memlm.data.stating.sets import kind_lines
from memlm.data.stating.statements import facts_of_questions, wordings_of

ROOT = Path(__file__).parents[3]
TABLES = {"company": ROOT / "docs/examples/company.csv", "dairy": ROOT / "tests/examples/dairy.csv"}
every_table = pytest.mark.parametrize("name", TABLES)
FORMS = [(name, form) for name, kind in KINDS.items() for way in kind.asked for form in way]


def ask(question: str, answer: str = "Oslo") -> Question:
    return Question(id="q", question=question, answers=(answer,))


def questions_of(name: str) -> list[Question]:
    path = str(TABLES[name])
    return require_questions(path, read_set(QuestionSetConfig(path=path, layout="fields")))


def facts_of(name: str) -> list[Fact]:
    return facts_of_questions(questions_of(name), also_asked=True, rephrased=True)


def trained_questions(fact: Fact) -> list[str]:
    asked = [text for text in fact.statements if text.startswith("Question: ")]
    return [text.removeprefix("Question: ").partition("\nAnswer: ")[0] for text in asked]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_question_has_the_kind_of_its_form(name, form):
    found = recognise(form.format(s="the inn at Lake Elbo", r="colour"))
    assert found is not None and found.kind is KINDS[name]
    assert form in found.way and found.subject == "the inn at Lake Elbo"
    assert found.quality == ("colour" if "{r}" in form else "")


def test_ways_to_ask_differ_and_there_are_enough_to_hold_some_out():
    for kind in KINDS.values():
        forms = [form for way in kind.asked for form in way]
        assert len(set(forms)) == len(forms) and len(kind.asked) >= 5 and len(kind.statements) >= 6


@pytest.mark.parametrize(
    ("question", "subject", "quality"),
    [
        ("What does Acme's tent cost?", "Acme's tent", ""),
        ("Where is the shop in Bergen located ?", "the shop in Bergen", ""),
        ("What is the name of Acme's owner?", "Acme's owner", ""),
        ("What is the weight of the tent of Acme?", "the tent of Acme", "weight"),
        ("What is Acme's tent's weight?", "Acme's tent", "weight"),
        ("Who is in charge of Acme's shop?", "Acme's shop", ""),
    ],
)
def test_the_subject_is_what_is_asked_about(question, subject, quality):
    found = recognise(question)
    assert found is not None and (found.subject, found.quality) == (subject, quality)


@pytest.mark.parametrize("question", ["How long is the Nile?", "Whose tent is it?", "Why?"])
def test_other_questions_are_of_no_kind(question):
    assert recognise(question) is None


@every_table
def test_no_fact_is_trained_in_a_way_in_which_any_is_asked(name):
    taken = ways_asked(questions_of(name))
    for fact in facts_of(name):
        trained = [recognise(question) for question in trained_questions(fact)]
        assert trained and not {found.way for found in trained if found} & taken
        (asked,) = fact.questions
        assert not any(mentions(text, asked.question) for text in fact.statements)


@every_table
def test_each_wording_holds_the_answer_and_is_said_once(name):
    for fact in facts_of(name):
        (asked,) = fact.questions
        assert len(set(fact.statements)) == len(fact.statements) >= 11
        assert all(mentions(text, asked.answers[0]) for text in fact.statements)


def test_a_kind_of_which_all_ways_are_asked_still_has_others_for_each_fact():
    asked = [ask(way[0].format(s=f"tent {number}")) for number, way in enumerate(KINDS["price"].asked)]
    for fact in facts_of_questions(asked, also_asked=True, rephrased=True):
        assert trained_questions(fact) and fact.questions[0].question not in trained_questions(fact)


def test_an_owner_is_named_in_both_places():
    stated = wordings_of(ask("Where is Acme's shop in Ghent?", "7 Mill Lane"), rephrased=True)
    assert stated.kind == "kind" and "Acme's shop in Ghent is at 7 Mill Lane." in stated.statements
    assert "The shop in Ghent of Acme is at 7 Mill Lane." in stated.statements
    back = wordings_of(ask("Where is the shop of Acme?", "on the hill"), rephrased=True)
    assert "Acme's shop is on the hill." in back.statements and "The shop of Acme is on the hill." in back.statements
    assert (
        "The shop of Acme is in Lima."
        in wordings_of(ask("Where is the shop of Acme?", "Lima"), rephrased=True).statements
    )


@pytest.mark.parametrize(
    ("question", "answer", "asked"),
    [
        ("In which year was Acme founded?", "1934", "What is the year in which Acme was founded?"),
        ("How many cows does Acme keep?", "260", "Acme keeps how many cows?"),
        ("Who designed the tent?", "Ada Bell", "Who is the one that designed the tent?"),
        ("Where was Ada Bell born?", "Lima", "Ada Bell was born where?"),
        ("When did the war end?", "1945", "When is it that the war ended?"),
    ],
)
def test_a_question_of_no_kind_is_asked_in_other_words_by_grammar(question, answer, asked):
    others = asked_by_grammar(ask(question, answer))
    assert asked in others and not any(mentions(other, question) or mentions(other, answer) for other in others)


def test_a_question_that_no_rule_takes_apart_has_gaps_in_its_statements():
    (fact,) = facts_of_questions([ask("roman god of the underworld", "Pluto")], also_asked=True, rephrased=True)
    assert asked_by_grammar(fact.questions[0]) == [] and any("___" in text for text in fact.statements)


def test_without_the_option_nothing_changes():
    question = ask("What does the tent cost?", "9 euros")
    assert wordings_of(question).kind == "question" and not wordings_of(question).questions
    (fact,) = facts_of_questions([question], also_asked=True)
    assert "The price of the tent is 9 euros." not in fact.statements


def test_what_is_stated_by_kind_is_said():
    assert list(kind_lines(questions_of("company"), rephrased=True)) == [
        "30 of 30 facts are stated in the wordings of what they ask for, such as: The Tarn stove costs 48 euros."
    ]


def test_facts_with_statements_of_their_own_are_not_rephrased():
    with pytest.raises(
        ValueError, match=r"questions.facts.rephrased is True, and the wordings are those of .*'s.jsonl'"
    ):
        FactsConfig(path="f.csv", statements="s.jsonl", rephrased=True)
