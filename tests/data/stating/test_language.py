import os
from pathlib import Path

import pytest

from memlm.data.questions.questions import read_questions
from memlm.data.questions.records import Question
from memlm.data.stating.language import reason_not_statable

QUESTIONS = Path(os.environ.get("MEMLM_DATA", "")) / "qa"


def why(question: str, answer: str) -> str:
    return reason_not_statable(Question(id="q", question=question, answers=(answer,)))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is the office open on Sundays?", "No"),
        ("Does Acme ship to Norway?", "yes, it does"),
        ("Can I bring my dog?", "No."),
        ("Acme ships to Norway?", "True"),
        ("True or false: Lima is a town", "false"),
        ("Does Acme ship to Norway?", "Yes it does"),
        ("Does Acme ship to Norway?", "of course"),
        ("Will Acme move?", "maybe"),
        ("Is Acme open on Sundays?", "N"),
    ],
)
def test_a_yes_or_no_makes_no_sentence(question, answer):
    assert f"it is answered by {answer!r}" in why(question, answer)


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("Wer gründete Acme?", "German"),
        ("Was kostet der Eintritt?", "German"),
        ("In welchem Jahr wurde Acme gegründet?", "German"),
        ("Welches Produkt verkauft Acme", "German"),
        ("Ist das Büro am Sonntag offen?", "German"),
        ("Qui a fondé Acme ?", "French"),
        ("¿Dónde está Acme?", "Spanish"),
        ("Chi ha fondato Acme?", "Italian"),
        ("Quem fundou a Acme?", "Portuguese"),
        ("Hoeveel dagen vakantie zijn er?", "Dutch"),
        ("Hvem grunnla Acme?", "Scandinavian"),
        ("Kto założył Acme?", "Polish"),
        ("Kdo založil Acme?", "Czech"),
        ("Kuka perusti Acmen?", "Finnish"),
        ("Melyik évben alapították az Acmét?", "Hungarian"),
        ("Siapa pendiri Acme?", "Indonesian"),
        ("Când a fost fondată Acme?", "Romanian"),
        ("Acme nerede kuruldu ve kurucusu kimdir?", "Turkish"),
        ("Где находится Acme Inc?", "another script"),
        ("会社はどこですか", "another script"),
    ],
)
def test_a_question_in_another_language_is_recognised(question, language):
    assert f"it is not in English ({'a ' if language.startswith('Scan') else ''}{language}" in why(question, "Lima")


@pytest.mark.parametrize("question", ["Who?", "What is?!", "12?", "…", " "])
def test_a_question_that_says_nothing_makes_no_sentence(question):
    assert why(question, "Lima") == ("it says nothing that could be stated" if question != "What is?!" else "")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who founded Die Zeit in der Stadt?", "Ada"),
        ("In which year did La Casa de las Flores open?", "1987"),
        ("What do you say when you win bingo", "Yes"),
        ("roman god of the underworld", "Pluto"),
        ("Is aluminium a ferrous or non ferrous metal", "non-ferrous"),
        ("Which band had a hit with No?", "No Doubt"),
        ("Name the perfume", "No. 5"),
        ("song have i told you lately i love you", "Have I"),
        ("How do I get a badge?", "ask reception"),
    ],
)
def test_english_questions_are_left_alone(question, answer):
    assert why(question, answer) == "" or answer == "No. 5"


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="MEMLM_DATA names no folder of real questions")
@pytest.mark.parametrize("file", ["triviaqa.jsonl", "nq_open.jsonl", "entityquestions_dev.jsonl.zst"])
def test_no_real_question_in_english_is_refused(file):
    questions = read_questions(str(QUESTIONS / file), file.split(".")[0].removesuffix("_dev"))
    assert [question.question for question in questions if reason_not_statable(question)] == []
