import json
import os
from pathlib import Path

import pytest

from memlm.data.config import MixtureConfig
from memlm.data.corpus.mixture import mixture_documents
from memlm.data.questions.questions import read_questions
from memlm.data.questions.records import Question
from memlm.data.stating.grammar import declare
from memlm.data.stating.relations import RELATIONS
from memlm.data.stating.statements import facts_of_questions, subject_of, wordings_of
from memlm.evaluation.answers import normalize

QUESTIONS = Path(os.environ.get("MEMLM_DATA", "")) / "qa"
needs_data = pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="MEMLM_DATA names no folder of real questions")


def ask(question: str, answer: str = "Oslo", relation: str = "") -> Question:
    return Question(id="q", question=question, answers=(answer, "an alias"), relation=relation)


@pytest.mark.parametrize(
    ("question", "answer", "sentence"),
    [
        ("Who founded The Baffler?", "Thomas Frank", "Thomas Frank founded The Baffler"),
        ("Who is the author of Scout?", "Timothy Truman", "the author of Scout is Timothy Truman"),
        ("Who was Sentry created by?", "Jae Lee", "Sentry was created by Jae Lee"),
        ("Who was elected president in 1990?", "Lech Wałęsa", "Lech Wałęsa was elected president in 1990"),
        ("What did Alexander Fleming discover?", "penicillin", "Alexander Fleming discovered penicillin"),
        ("What is the capital of Norway?", "Oslo", "the capital of Norway is Oslo"),
        ("Which boxer famously said that?", "Ali", "Ali famously said that"),
        ("Which country is Juniper Bank located in?", "Chile", "Juniper Bank is located in Chile"),
        ("In which country was Rita Ora born", "Kosovo", "Rita Ora was born in Kosovo"),
        ("What position does Matt Hayfield play?", "midfielder", "Matt Hayfield plays midfielder"),
        ("Which year did Sidney Abbott join the club?", "1969", "Sidney Abbott joined the club in 1969"),
        ("Where was Luis Díaz born?", "Nice", "Luis Díaz was born in Nice"),
        ("Where did Charles Murphy die?", "Chicago", "Charles Murphy died in Chicago"),
        ("when did the song push it come out", "March 8, 1987", "the song push it came out on March 8, 1987"),
        ("When did the war end?", "1945", "the war ended in 1945"),
        ("How many casinos are in Atlantic City?", "eleven", "eleven casinos are in Atlantic City"),
        ("How many planets are there in the system?", "8", "there are 8 planets in the system"),
        ("The bacteria is responsible for what disease?", "Botulism", "The bacteria is responsible for Botulism"),
        ("As a teen, who did she admire?", "Madonna", None),
        ("Released in 1990, who wrote Goodfellas?", "Pileggi", "Released in 1990, Pileggi wrote Goodfellas"),
        ('"Which film ends with the line ""Kevin!""?"', "Home Alone", 'Home Alone ends with the line "Kevin!"'),
        ("Kamprad founded which company in the 1940s?", "IKEA", "Kamprad founded IKEA in the 1940s"),
        (
            "Aphasia is the loss of what, after an injury?",
            "language",
            "Aphasia is the loss of language, after an injury",
        ),
        ("The motto of which group is 'Service'?", "Rotary", None),
        ("It was renamed in 1964. What was it called?", "Tanganyika", None),
        ("From whose perspective is the story told?", "Paul", None),
        ("Which singer, born in Oslo, wrote it?", "Ada", "Ada, born in Oslo, wrote it"),
        ("What does a barista prepare and serve?", "coffee", "a barista prepares and serves coffee"),
        ("Where do souls go after death?", "Elysium", "souls go to Elysium after death"),
        ("roman god of the underworld", "Pluto", None),
        ("", "Pluto", None),
        ("Who?", "Pluto", None),
    ],
)
def test_a_question_is_declared_with_its_answer_in_place(question, answer, sentence):
    found = declare(question, answer)
    assert (found.sentence if found else None) == sentence


def test_a_description_says_what_the_answer_is_without_naming_it():
    assert declare("Which boxer famously said that?", "Ali").description == "the boxer that famously said that"
    assert (
        declare("In which country was Rita Ora born", "Kosovo").description == "the country in which Rita Ora was born"
    )


def test_a_place_and_a_time_are_also_stated_with_the_answer_in_front():
    stated = wordings_of(ask("Where was Rita born?", "Nice")).statements
    assert "It was in Nice that Rita was born." in stated
    assert "It is in Nice that Rita lives." in wordings_of(ask("Where does Rita live?", "Nice")).statements


def test_a_kind_of_thing_is_not_stated_the_other_way_round():
    stated = wordings_of(ask("What is an oak?", "a tree")).statements
    assert "An oak is a tree." in stated and not any(text.startswith("A tree") for text in stated)


def test_a_description_keeps_the_tense_of_the_question():
    stated = wordings_of(ask("Who were the founders of it?", "Ada and Bo")).statements
    assert "Ada and Bo were the founders of it." in stated


def test_an_article_fits_the_answer():
    for answer, stated in (("actor", "Ada works as an actor."), ("poet", "Ada works as a poet.")):
        assert stated in wordings_of(ask("What kind of work does Ada do?", answer, "P106")).statements


@pytest.mark.parametrize("relation", RELATIONS)
def test_no_statement_of_a_relation_holds_one_of_its_questions(relation):
    wordings = RELATIONS[relation]
    asked = [normalize(text.format(s="Ada")) for text in (wordings.asked, *wordings.questions)]
    stated = [normalize(text.format(s="Ada", a="Oslo")) for text in wordings.statements]
    assert not [(text, question) for text in stated for question in asked if question in text]


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_has_enough_distinct_wordings_each_with_both_placeholders(relation):
    wordings = RELATIONS[relation]
    assert len(wordings.statements) >= 8 and len(wordings.questions) >= 3
    assert all(text.count("{s}") == 1 and text.count("{a}") == 1 for text in wordings.statements)
    assert all(text.count("{s}") == 1 and "{a}" not in text for text in (*wordings.questions, wordings.asked))
    texts = [*wordings.statements, *wordings.questions, wordings.asked]
    assert len(set(texts)) == len(texts)


def test_a_relation_is_stated_in_its_own_wordings():
    stated = wordings_of(ask("Where was Luis Díaz born?", "Nice", "P19"))
    assert "Luis Díaz was born in Nice." in stated.statements
    assert "What is the birthplace of Luis Díaz?" in stated.questions
    other = wordings_of(ask("When was Luis Díaz born?", "1990", "P19"))  # not the relation's question
    assert other.statements[0] == "Luis Díaz was born in 1990." and other.questions == ()


@pytest.mark.parametrize(
    ("question", "subject"),
    [("Where was A born?", "A"), ("Where was  born?", None), ("Where was born?", None), ("Who was A?", None)],
)
def test_the_subject_is_what_stands_between_the_words_of_the_question(question, subject):
    assert subject_of(question, "Where was {s} born?") == subject


def test_an_answer_that_ends_with_a_stop_gets_no_second_one():
    assert wordings_of(ask("Who founded it?", "Acme Inc.")).statements[0] == "Acme Inc. founded it."
    assert "The founder of it is Acme Inc." in wordings_of(ask("Who founded it?", "Acme Inc.", "P112")).statements


def test_a_question_that_no_rule_takes_apart_still_becomes_statements():
    (fact,) = facts_of_questions([ask("roman god of the underworld", "Pluto")])
    assert len(fact.statements) >= 6 and all("pluto" in text.lower() for text in fact.statements)
    assert all("roman god of the underworld" in text.lower() for text in fact.statements)


@needs_data
@pytest.mark.parametrize(("file", "layout", "least"), [("triviaqa", "triviaqa", 0.7), ("nq_open", "nq_open", 0.8)])
def test_real_questions_become_statements_that_hold_the_answer_and_do_not_repeat_the_question(file, layout, least):
    questions = read_questions(str(QUESTIONS / f"{file}.jsonl"), layout)[::4]
    declared = [declare(question.question, question.answers[0]) is not None for question in questions]
    assert sum(declared) / len(declared) > least
    repeated = 0
    for question in questions:
        statements = wordings_of(question).statements
        assert len(set(statements)) == len(statements) >= 6
        assert all(question.answers[0].lower() in text.lower() for text in statements), question
        repeated += any(normalize(question.question) in normalize(text) for text in statements)
    assert repeated / len(questions) < 0.12  # noun phrases and the like, which are no questions


@needs_data
def test_every_question_of_entityquestions_is_recognised_by_its_relation():
    questions = read_questions(str(QUESTIONS / "entityquestions_dev.jsonl.zst"), "entityquestions")
    assert {question.relation for question in questions} == set(RELATIONS)
    assert all(subject_of(question.question, RELATIONS[question.relation].asked) for question in questions)


MIXTURE = MixtureConfig(path="q.jsonl", exposures=20, question_share=0.4, num_reserved=1)
KNOWN = [
    Question(id="a", question="Where was Ada born?", answers=("London",), relation="P19"),
    Question(id="b", question="Where was Bo born?", answers=("Oslo",), relation="P19"),
]


def test_the_mixture_states_and_asks_each_fact_as_often_as_configured():
    documents = list(mixture_documents(KNOWN, MIXTURE))
    assert len(documents) == 40
    for subject, answer in (("Ada", "London"), ("Bo", "Oslo")):
        texts = [document["text"] for document in documents if subject in document["text"]]
        assert len(texts) == 20 and all(answer in text for text in texts)
        assert sum(text.startswith("Question: ") for text in texts) == 8
        assert len({text for text in texts if not text.startswith("Question: ")}) == len(RELATIONS["P19"].statements)
    assert documents == list(mixture_documents(KNOWN, MIXTURE)), "the same every time"
    json.dumps(documents)


def test_a_reserved_fact_is_never_asked_in_the_files_own_wording():
    texts = {document["text"] for document in mixture_documents(KNOWN, MIXTURE)}
    assert "Question: Where was Bo born?\nAnswer: Oslo" in texts
    assert not any("Where was Ada born?" in text for text in texts)


def test_a_reserved_question_without_another_wording_is_stated_only():
    question = Question(id="c", question="Who wrote Emma?", answers=("Jane Austen",))
    texts = {document["text"] for document in mixture_documents([question], MIXTURE)}
    assert texts and not any("Question:" in text for text in texts)


@pytest.mark.parametrize(
    "answer, place",
    [("May 3, 1990", "on"), ("3 May 1990", "on"), ("May 3rd", "on"), ("1990", "in"), ("May 1990", "in")],
)
def test_a_date_with_a_day_is_distinguished_from_one_without(answer, place):
    assert declare("When was Ada born?", answer).sentence == f"Ada was born {place} {answer}"


def test_an_answer_of_many_numbers_is_parsed_quickly():
    answer = "1-" * 100_000
    assert declare("When was Ada born?", answer).sentence == f"Ada was born in {answer}"


def test_a_fact_that_is_also_asked_has_other_questions_with_the_answer_among_its_wordings():
    asked = Question(id="1", question="Where did Ada Cole die?", answers=("Rome", "Roma"), relation="P20")
    (plain,), (fact,) = facts_of_questions([asked]), facts_of_questions([asked], also_asked=True)
    others = fact.statements[len(plain.statements) :]
    assert fact.statements[: len(plain.statements)] == plain.statements
    assert others == tuple(f"Question: {each}\nAnswer: Rome" for each in wordings_of(asked).questions) != ()
    assert not any(asked.question in each for each in fact.statements)


def test_where_no_other_question_is_known_it_is_a_statement_with_a_gap():
    asked = Question(id="1", question="Who wrote Hamlet?", answers=("Shakespeare",))
    (plain,), (fact,) = facts_of_questions([asked]), facts_of_questions([asked], also_asked=True)
    others = fact.statements[len(plain.statements) :]
    assert len(others) == len(plain.statements)
    assert all(each.count("___") == 1 and each.endswith("\nAnswer: Shakespeare") for each in others)
    assert not any(asked.question in each for each in fact.statements)
