"""The questions that come with memlm are read as any set, and are a sample of the public split."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from memlm.data.config import QuestionSetConfig
from memlm.data.corpus.shards import read_records
from memlm.data.paths import expand
from memlm.data.questions.questions import read_questions, read_set
from memlm.data.questions.shipped import FOLDER
from memlm.data.stating.statements import wordings_of

QUESTIONS, EXAMPLES = "{shipped}/entityquestions.jsonl.zst", "{shipped}/entityquestions_examples.jsonl"
WHOLE = Path(os.environ.get("MEMLM_DATA", "/nonexistent")) / "qa" / "entityquestions_dev.jsonl.zst"


def read(path):
    return read_questions(expand(path, "questions.facts.path", None), "entityquestions")


def test_they_are_read_without_a_word_and_stated_in_the_wordings_of_their_relations():
    said = []
    source = QuestionSetConfig(path=expand(QUESTIONS, "questions.facts.path", None), layout="entityquestions")
    questions = read_set(source, report=said.append)
    assert (len(questions), said) == (8000, [])
    assert len({question.id for question in questions}) == len({question.question for question in questions}) == 8000
    assert {wordings_of(question).kind for question in questions} == {"relation"}
    assert len({question.relation for question in questions}) == 24


def test_the_examples_are_asked_by_none_of_them():
    examples = read(EXAMPLES)
    assert len(examples) == 5
    assert not {each.question for each in examples} & {each.question for each in read(QUESTIONS)}


def test_they_are_small_and_come_with_their_licence():
    assert (FOLDER / "entityquestions.jsonl.zst").stat().st_size < 400_000
    assert (
        "Copyright (c) 2021 Princeton Natural Language Processing" in (FOLDER / "LICENSE.EntityQuestions").read_text()
    )
    assert "arXiv 2109.08535" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "layout", "copyright", "original"),
    [
        ("hellaswag", "hellaswag", "Copyright (c) 2019 Rowan Zellers", "hellaswag_cleaned.jsonl"),
        ("gsm8k", "gsm8k", "Copyright (c) 2021 OpenAI", "gsm8k_train.jsonl"),
    ],
)
def test_the_sets_of_skills_are_the_first_of_their_sets_with_their_licence(name, layout, copyright, original):
    path = FOLDER / f"{name}.jsonl.zst"
    assert len(read_set(QuestionSetConfig(path=str(path), layout=layout))) == 100
    assert path.stat().st_size < 50_000
    licences = {each.name.casefold(): each.read_text() for each in FOLDER.glob("LICENSE.*")}
    assert copyright in licences[f"license.{name}"]
    if WHOLE.exists():
        first = itertools.islice(read_records(str(WHOLE.parent / original)), 100)
        assert [row for _, row in read_records(str(path))] == [row for _, row in first]


@pytest.mark.skipif(not WHOLE.exists(), reason="MEMLM_DATA names no EntityQuestions")
def test_they_are_the_sample_that_the_readme_describes():
    rows = [row for _, row in read_records(str(WHOLE))]
    times, numbers = Counter(row["question"] for row in rows), Counter()
    once = []
    for row in rows:
        id = f"{row['relation']}.dev:{numbers[row['relation']]}"
        numbers[row["relation"]] += 1
        if times[row["question"]] == 1:
            once.append({"id": id, **{name: row[name] for name in ("relation", "question", "answers")}})
    order = np.argsort(np.random.Philox(key=[0, 0]).random_raw(len(once)), kind="stable")
    shipped = [row for _, row in read_records(str(FOLDER / "entityquestions.jsonl.zst"))]
    assert shipped == [once[index] for index in order[:8000]]
    assert not {each.question for each in read(EXAMPLES)} & set(times)
