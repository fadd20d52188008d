import json
import os
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memlm.data.config import QuestionSetConfig
from memlm.data.corpus.shards import ShardError
from memlm.data.questions.files import read_saved_set, write_nq_open, write_set, write_triviaqa
from memlm.data.questions.final_numbers import final_number
from memlm.data.questions.questions import read_questions, read_set, select
from memlm.data.questions.records import Question, QuestionError

QUESTIONS = [
    Question(id="q1", question="Who?", answers=("Ada", "Ada Lovelace"), relation="inventor"),
    Question(id="q2", question="Où?", answers=("Zürich",)),
]
needs_data = pytest.mark.skipif(
    "MEMLM_DATA" not in os.environ, reason="MEMLM_DATA, the folder of real files, is not set"
)


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.zst"])
@pytest.mark.parametrize(("layout", "write"), [("triviaqa", write_triviaqa), ("nq_open", write_nq_open)])
def test_written_questions_are_read_back(tmp_path, layout, write, suffix):
    path = str(tmp_path / f"questions{suffix}")
    write(path, QUESTIONS)
    assert read_questions(path, layout) == QUESTIONS


def test_written_fields_are_the_public_layouts_own(tmp_path):
    write_triviaqa(str(tmp_path / "t.jsonl"), QUESTIONS[1:])
    answer = {"value": "Zürich", "aliases": ["Zürich"]}
    assert json.loads((tmp_path / "t.jsonl").read_text()) == {"question_id": "q2", "question": "Où?", "answer": answer}
    write_nq_open(str(tmp_path / "n.jsonl"), QUESTIONS[1:])
    assert json.loads((tmp_path / "n.jsonl").read_text()) == {"question": "Où?", "answer": ["Zürich"], "id": "q2"}


def test_triviaqa_value_comes_first_and_aliases_once(tmp_path):
    answer = {"value": "B", "aliases": ["A", "B", "A"]}
    path = write_lines(tmp_path / "t.jsonl", {"question_id": "x", "question": "?", "answer": answer})
    assert read_questions(path, "triviaqa")[0].answers == ("B", "A")


def test_entityquestions_keep_their_relation(tmp_path):
    path = write_lines(tmp_path / "e.jsonl", {"relation": "P19", "question": "Where?", "answers": ["Bern", "Berne"]})
    expected = Question(id="entityquestions:1", question="Where?", answers=("Bern", "Berne"), relation="P19")
    assert read_questions(path, "entityquestions") == [expected]


@pytest.mark.parametrize(("solution", "number"), [("2+2\n#### 4", "4"), ("#### 1,234 ", "1234"), ("x\n#### -5", "-5")])
def test_gsm8k_answer_is_the_number_after_the_marks(tmp_path, solution, number):
    path = write_lines(tmp_path / "g.jsonl", {"question": "How many?", "answer": solution})
    assert read_questions(path, "gsm8k")[0].answers == (number,)


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        ("nq_open", {"question": "?", "answer": []}),
        ("nq_open", {"question": "?", "answer": ["", " ", None]}),
        ("nq_open", {"question": "?", "answer": True}),
        ("nq_open", {"question": "?", "answer": ["\ud800"]}),
        ("nq_open", {"question": "\udfff?", "answer": ["a"]}),
        ("nq_open", {"question": "?", "answer": ["a"], "more": [[]] * 2**21}),
        ("nq_open", {"question": "?", "answer": [3]}),
        ("nq_open", {"question": "?"}),
        ("nq_open", {"question": "?", "answer": "Bern"}),
        ("nq_open", {"question": " ", "answer": ["a"]}),
        ("entityquestions", {"question": "?", "answers": None}),
        ("triviaqa", {"question_id": "1", "question": "?", "answer": ["Bern"]}),
        ("gsm8k", {"question": "?", "answer": "no number"}),
        ("gsm8k", {"question": "?", "answer": None}),
    ],
)
def test_a_question_without_answers_is_reported_with_file_and_line(tmp_path, layout, record):
    good = {
        "nq_open": {"question": "?", "answer": ["a"]},
        "entityquestions": {"question": "?", "answers": ["a"]},
        "triviaqa": {"question_id": "0", "question": "?", "answer": {"value": "a", "aliases": []}},
        "gsm8k": {"question": "?", "answer": "#### 1"},
    }[layout]
    path = write_lines(tmp_path / "q.jsonl", good, record)
    with pytest.raises(QuestionError, match=r"q\.jsonl:2: .*(Name|Repair|Write)"):
        read_questions(path, layout)


def test_a_duplicate_id_is_refused(tmp_path):
    record = {"question_id": "x", "question": "?", "answer": {"value": "a", "aliases": []}}
    with pytest.raises(QuestionError, match=r":2: the id 'x' is already on line 1"):
        read_questions(write_lines(tmp_path / "t.jsonl", record, record), "triviaqa")


def test_unknown_layout_names_the_nearest(tmp_path):
    with pytest.raises(QuestionError, match=r"'trivia_qa'; did you mean 'triviaqa'\?"):
        read_questions(str(tmp_path / "missing.jsonl"), "trivia_qa")


def test_missing_or_empty_files_are_refused(tmp_path):
    with pytest.raises(ShardError, match="does not exist"):
        read_questions(str(tmp_path / "missing.jsonl"), "triviaqa")
    with pytest.raises(QuestionError, match="holds no questions"):
        read_questions(write_lines(tmp_path / "empty.jsonl"), "triviaqa")


@needs_data
@pytest.mark.parametrize(
    ("file", "layout", "count"),
    [
        ("triviaqa.jsonl", "triviaqa", 2000),
        ("nq_open.jsonl", "nq_open", 2600),
        ("gsm8k_train.jsonl", "gsm8k", 7473),
        ("entityquestions_dev.jsonl.zst", "entityquestions", 22068),
    ],
)
def test_real_files_are_read_whole(file, layout, count):
    questions = read_questions(os.path.join(os.environ["MEMLM_DATA"], "qa", file), layout)
    assert len(questions) == count
    assert layout != "entityquestions" or len({question.relation for question in questions}) == 24
    assert layout != "gsm8k" or all(question.answers[0].lstrip("-").isdigit() for question in questions)


@pytest.mark.parametrize(
    "end",
    [
        "#### $5",
        "#### 10%",
        "#### 3/4",
        "####18",
        "#### 5 dollars",
        "#### .",
        "#### 18.",
        "#### ",
        "#### 7\n#### 8",
        "5",
    ],
)
def test_a_solution_that_does_not_yield_its_own_answer_is_refused(tmp_path, end):
    good = {"question": "How many?", "answer": "Add.\n#### 5"}
    path = write_lines(tmp_path / "g.jsonl", good, {"question": "How much?", "answer": f"Add.\n{end}"})
    with pytest.raises(
        QuestionError, match=r"g\.jsonl:2: the solution .*no answer can be right\. Write the bare number"
    ) as refused:
        read_questions(path, "gsm8k")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("end", ["#### 5", "#### 1,234", "#### -5", "#### 2.50 ", "a ## b ### c\n#### 12\n"])
def test_the_final_number_of_a_solution_is_its_answer(tmp_path, end):
    (problem,) = read_questions(write_lines(tmp_path / "g.jsonl", {"question": "How many?", "answer": end}), "gsm8k")
    assert problem.answers == (final_number(problem.solution),) and float(problem.answers[0])


def read_with_messages(path, layout):
    messages: list[str] = []
    return read_set(QuestionSetConfig(path=path, layout=layout), report=messages.append), messages


def test_a_blank_or_null_alias_is_left_out_and_reported(tmp_path):
    answers = [
        {"value": "B", "aliases": ["", "C", " "]},
        {"value": "D", "aliases": None},
        {"value": "", "aliases": ["E", None]},
    ]
    records = [{"question_id": str(i), "question": "?", "answer": answer} for i, answer in enumerate(answers)]
    questions, (note,) = read_with_messages(write_lines(tmp_path / "t.jsonl", *records), "triviaqa")
    assert [question.answers for question in questions] == [("B", "C"), ("D",), ("E",)]
    assert "t.jsonl: 2 records have a blank answer" in note and "(lines 1, 3)" in note


def test_a_whole_number_with_a_point_is_reported_and_kept(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('question,answer\nwhen?,1990.0\nhow far?,2.5\nhow much?,$5.00\nhow many?,"1,990.0"\n')
    questions, (note,) = read_with_messages(str(path), "fields")
    assert [question.answers for question in questions] == [("1990.0",), ("2.5",), ("$5.00",), ("1,990.0",)]
    assert "3 records have a whole number with a point" in note and "(lines 2, 4, 5)" in note


def test_an_empty_cell_is_not_an_id(tmp_path):
    (tmp_path / "q.csv").write_text("id,question,answer\nx,a?,1\n,b?,2\n,c?,3\n")
    questions, messages = read_with_messages(str(tmp_path / "q.csv"), "fields")
    assert [question.id for question in questions] == ["x", "fields:3", "fields:4"] and not messages
    ids = pa.table({"id": [7.0, float("nan"), float("nan")], "question": ["a", "b", "c"], "answer": ["x", "y", "z"]})
    pq.write_table(ids, tmp_path / "q.parquet")
    assert [each.id for each in read_with_messages(str(tmp_path / "q.parquet"), "fields")[0]] == [
        "7",
        "fields:2",
        "fields:3",
    ]


def test_midnight_in_a_table_is_read_as_a_day(tmp_path):
    moments = [datetime(2020, 1, 31), datetime(2020, 1, 31, 3)]
    pq.write_table(pa.table({"question": ["a", "b"], "answer": moments}), tmp_path / "q.parquet")
    questions, _ = read_with_messages(str(tmp_path / "q.parquet"), "fields")
    assert [question.answers for question in questions] == [("2020-01-31",), ("2020-01-31 03:00:00",)]


@pytest.mark.parametrize("merge", [False, True])
def test_numbered_ids_are_merged_only_on_request(tmp_path, merge):
    ids = ["train#0", "train#1", "a#b", "#3", "plain"]
    path = write_lines(tmp_path / "q.jsonl", *({"id": id, "question": f"{id}?", "answer": ["a"]} for id in ids))
    records = read_set(QuestionSetConfig(path=path, layout="nq_open", merge_numbered=merge))
    assert [record.id for record in records] == ids
    assert [record.fact_id for record in records] == (["train", "train", "a#b", "#3", "plain"] if merge else ids)


def test_records_from_before_the_field_fact_are_merged_by_id(tmp_path):
    old = {"id": "a#0", "question": "?", "answers": ["x"], "relation": "", "solution": "", "context": ""}
    (record,) = read_saved_set(write_lines(tmp_path / "old.jsonl", old))
    assert record == Question(id="a#0", question="?", answers=("x",), fact="a")
    write_set(str(tmp_path / "new.jsonl"), [replace(record, fact="")])
    assert read_saved_set(str(tmp_path / "new.jsonl"))[0].fact_id == "a#0"


def test_requesting_too_many_questions_gives_all_and_a_message():
    messages: list[str] = []
    source = QuestionSetConfig(path="q.csv", num_questions=5, skip=1)
    assert select([1, 2, 3], source, report=messages.append) == [2, 3]
    assert messages == ["num_questions is 5, but there are only 2: all of them are used"]
    assert select([1, 2, 3, 4, 5, 6], source, report=messages.append) == [2, 3, 4, 5, 6] and len(messages) == 1
