import json
import os
from pathlib import Path

import pytest

from memlm.data.corpus.shards import ShardError, write_shard
from memlm.data.documents.chunking import Chunk
from memlm.data.documents.documents import (
    DocumentError,
    DocumentQuestion,
    check_augmented,
    facts_of_chunks,
    place_questions,
    read_document_questions,
    read_titled_documents,
)
from memlm.data.questions.records import Question

CHUNKS = [
    Chunk(document_id="1", number=0, title="Ada", text="Ada was born in Rome."),
    Chunk(document_id="1", number=1, title="Ada", text="She died in 1902."),
    Chunk(document_id="2", number=0, title="Bo", text="Bo saw Rome and Romeo."),
]


def asked(id: str, answer: str, *documents: str) -> DocumentQuestion:
    return DocumentQuestion(question=Question(id=id, question=f"{id}?", answers=(answer,)), document_ids=documents)


def questions_by_chunk(*questions: DocumentQuestion, answered_only: bool = True) -> dict[str, list[str]]:
    texts = [[chunk.text] for chunk in CHUNKS]
    facts = facts_of_chunks(CHUNKS, texts, place_questions(CHUNKS, questions, answered_only=answered_only))
    assert [(fact.id, fact.statements) for fact in facts] == [(chunk.id, (chunk.text,)) for chunk in CHUNKS]
    return {fact.id: [question.id for question in fact.questions] for fact in facts}


def write(path: Path, *records: dict[str, object]) -> str:
    write_shard(str(path), records)
    return str(path)


def test_documents_are_read_and_empty_ones_reported(tmp_path: Path):
    path = write(
        tmp_path / "d.jsonl.zst",
        {"id": 7, "title": "T ", "text": "One."},
        {"id": "8", "text": " \n"},
        {"id": "9", "text": "Two."},
    )
    documents, empty = read_titled_documents(path)
    assert [(document.id, document.title, document.text) for document in documents] == [
        ("7", "T", "One."),
        ("9", "", "Two."),
    ]
    assert empty == [f"{path}:2: document '8' is empty"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"id": "1", "title": "no text"}], ":1: a document needs.*id, title.*repair or remove"),
        ([{"text": "no id"}], ":1: a document needs an id"),
        ([{"id": "1", "text": 3}], ":1: a document needs"),
        ([{"id": "1", "text": "a"}, {"id": 1, "text": "b"}], ":2: the id '1' is already on line 1"),
        ([{"id": "1", "text": ""}, {"id": "2", "text": " "}], "no document holds any text \\(2 are empty\\)"),
    ],
)
def test_a_file_that_holds_no_documents_is_refused(tmp_path: Path, records, message: str):
    path = write(tmp_path / "d.jsonl", *records)
    with pytest.raises(DocumentError, match=message):
        read_titled_documents(path)
    with pytest.raises(ShardError, match="does not exist"):
        read_titled_documents(str(tmp_path / "other.jsonl"))


def test_questions_without_documents_or_answers_are_refused(tmp_path: Path):
    good = {"id": "q", "question": "Where?", "answer": " Rome. ", "doc_ids": [7]}
    (question,) = read_document_questions(write(tmp_path / "q.jsonl", good))
    assert question == DocumentQuestion(
        question=Question(id="q", question="Where?", answers=("Rome.",)), document_ids=("7",)
    )
    for bad in ({"doc_ids": []}, {"answer": " "}, {"question": None}, {"doc_ids": "[7"}, {"answer": ["a", 1, None]}):
        with pytest.raises(DocumentError, match=":2: needs a question and an answer, and doc_ids if present must list"):
            read_document_questions(write(tmp_path / "q.jsonl", good, {**good, **bad}))
    with pytest.raises(DocumentError, match=":2: the answer has 500 words, but at most 100 are allowed"):
        read_document_questions(write(tmp_path / "q.jsonl", good, {**good, "answer": "so " * 500}))


@pytest.mark.parametrize(
    ("record", "answers", "ids"),
    [
        ({"answer": "Rome"}, ("Rome",), ()),
        ({"answer": "Rome", "doc_ids": ""}, ("Rome",), ()),
        ({"answer": "Rome", "doc_ids": "handbook"}, ("Rome",), ("handbook",)),
        ({"answer": "Rome", "doc_ids": '["a", 7]'}, ("Rome",), ("a", "7")),
        ({"answer": 25, "doc_ids": 7}, ("25",), ("7",)),
        ({"answer": ["Rome ", "Roma", "Rome"]}, ("Rome", "Roma"), ()),
    ],
)
def test_a_question_needs_neither_an_id_nor_documents(tmp_path: Path, record, answers, ids):
    (asked,) = read_document_questions(write(tmp_path / "q.jsonl", {"question": "Where?", **record}))
    assert asked.question == Question(id="question:1", question="Where?", answers=answers)
    assert asked.document_ids == ids


def test_a_document_may_hold_its_questions_and_rewrites(tmp_path: Path):
    path = write(
        tmp_path / "d.jsonl",
        {
            "id": 7,
            "title": " Ada ",
            "text": "Ada was born in Rome.",
            "rewrites": ["Rome saw Ada's birth."],
            "questions": [
                {"question": "Where was she born?", "answer": "Rome"},
                {"id": "q", "question": "Who?", "answer": ["Ada"]},
            ],
        },
        {"id": "8", "text": "Bo saw Lima.", "questions": [{"question": "Who saw Lima?", "answer": "Bo"}]},
        {"id": "9", "text": "Nobody asks.", "rewrites": None, "questions": []},
    )
    documents, _ = read_titled_documents(path)
    assert [document.rewrites for document in documents] == [("Rome saw Ada's birth.",), (), ()]
    asked = read_document_questions(path)
    assert [(each.question.id, each.question.question, each.document_ids) for each in asked] == [
        ("7:0", "Topic: Ada\nWhere was she born?", ("7",)),
        ("q", "Topic: Ada\nWho?", ("7",)),
        ("8:0", "Who saw Lima?", ("8",)),
    ]
    assert questions_by_chunk(*asked[:1]) == {"1#0": [], "1#1": [], "2#0": []}, "it is about document 7 alone"


@pytest.mark.parametrize(
    ("fields", "read", "message"),
    [
        ({"rewrites": "one text"}, read_titled_documents, ":1: rewrites must be a list of texts"),
        ({"rewrites": ["a", 3]}, read_titled_documents, ":1: rewrites must be a list of texts"),
        ({"questions": ["Who?"]}, read_document_questions, ":1: questions must be a list of objects"),
        ({"questions": [{"question": "Who?"}]}, read_document_questions, ":1: needs a question and an answer"),
        ({"questions": []}, read_document_questions, "holds no questions"),
    ],
)
def test_what_a_document_holds_is_checked(tmp_path: Path, fields, read, message: str):
    with pytest.raises(DocumentError, match=message):
        read(write(tmp_path / "d.jsonl", {"id": "1", "text": "Ada.", **fields}))


def test_questions_may_be_in_a_table(tmp_path: Path):
    (tmp_path / "q.csv").write_text("question,answer,doc_ids\nWhere?,Rome,a\nWhen?,1902,\n")
    questions = read_document_questions(str(tmp_path / "q.csv"))
    assert [(asked.question.id, asked.document_ids) for asked in questions] == [
        ("question:2", ("a",)),
        ("question:3", ()),
    ]


def test_each_text_file_is_a_document(tmp_path: Path):
    (tmp_path / "hand-book.md").write_text("# Acme handbook\n\nAcme was founded in 1987.")
    (tmp_path / "other_rules.txt").write_text("There are rules.")
    (tmp_path / "nothing.md").write_text(" \n")
    documents, empty = read_titled_documents(str(tmp_path))
    assert [(document.id, document.title) for document in documents] == [
        ("hand-book", "Acme handbook"),
        ("other_rules", "other rules"),
    ]
    assert empty == [f"{tmp_path}: document 'nothing' is empty"]
    ((document,), _) = read_titled_documents(str(tmp_path / "hand-book.md"))
    assert document == documents[0]
    (tmp_path / "other_rules.md").write_text("More rules.")
    with pytest.raises(DocumentError, match="two files are named 'other_rules'"):
        read_titled_documents(str(tmp_path))


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a", "a.html"])
def test_an_unsupported_kind_of_file_is_reported(tmp_path: Path, name):
    (tmp_path / name).write_text("text")
    with pytest.raises(DocumentError, match="not a supported kind of document file; use .md, .markdown, .txt"):
        read_titled_documents(str(tmp_path / name))


HANDBOOK = [
    Chunk(
        document_id="h",
        number=0,
        title="Acme",
        text="Acme welcomes you. Our founder says hello from Lima, 25 times a day.",
    ),
    Chunk(document_id="h", number=1, title="Acme: Offices", text="The head office of Acme is in Lima."),
    Chunk(
        document_id="h",
        number=2,
        title="Acme: Holidays",
        text="Staff get 25 days of paid leave. The canteen is in Lima.",
    ),
    Chunk(document_id="h", number=3, title="Acme: Canteen", text="Lunch costs 25 soles."),
]


@pytest.mark.parametrize(
    ("question", "answer", "chunk"),
    [
        ("Where is the head office of Acme?", "Lima", "h#1"),
        ("How many days of paid leave do staff get?", "25", "h#2"),
        ("What does lunch cost?", "25 soles", "h#3"),
        ("Where does the founder say hello from?", "Lima", "h#0"),
        ("Where is the canteen?", "Lima", "h#2"),
        ("Which number?", "25", "h#0"),  # no difference between them
    ],
)
def test_a_question_is_tied_to_the_chunk_that_states_its_answer(question, answer, chunk):
    asked = DocumentQuestion(question=Question(id="q", question=question, answers=(answer,)), document_ids=())
    assert list(place_questions(HANDBOOK, [asked], answered_only=True)) == [chunk]


def test_documents_may_be_in_a_table(tmp_path: Path):
    (tmp_path / "d.csv").write_text("id,title,text\n1,Rome,A town.\n")
    documents, _ = read_titled_documents(str(tmp_path / "d.csv"))
    assert [(document.id, document.title, document.text) for document in documents] == [("1", "Rome", "A town.")]


def test_a_question_goes_to_the_chunk_that_answers_it():
    assert questions_by_chunk(
        asked("born", "Rome", "1"), asked("died", "1902", "1"), asked("saw", "Rome", "2", "1")
    ) == {
        "1#0": ["born"],
        "1#1": ["died"],
        "2#0": ["saw"],
    }


def test_a_question_that_no_chunk_answers_is_left_out_or_goes_to_the_last():
    questions = [asked("why", "Nobody knows", "1", "2"), asked("gone", "Rome", "3")]
    assert questions_by_chunk(*questions) == {"1#0": [], "1#1": [], "2#0": []}
    assert questions_by_chunk(*questions, answered_only=False) == {"1#0": [], "1#1": ["why"], "2#0": []}


def test_chunks_without_a_text_are_left_out_and_too_many_are_refused():
    chunks, texts = check_augmented(CHUNKS, [["a"], [], ["b"]], max_failed_share=0.4)
    assert [chunk.id for chunk in chunks] == ["1#0", "2#0"] and texts == [["a"], ["b"]]
    with pytest.raises(
        DocumentError, match="no text for 1 of 3 chunks, the first '1#1'.*max_failed_share \\(0.3\\).*##"
    ):
        check_augmented(CHUNKS, [["a"], [], ["b"]], max_failed_share=0.3)


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="needs SimpleQA's documents: set MEMLM_DATA")
def test_simpleqa_questions_find_their_answers():
    folder = Path(os.environ["MEMLM_DATA"]) / "qa"
    documents, _ = read_titled_documents(str(folder / "simpleqa_wiki_docs.jsonl.zst"))
    questions = read_document_questions(str(folder / "simpleqa_wiki_questions.jsonl"))
    chunks = [
        Chunk(document_id=document.id, number=number, title=document.title, text=text)
        for document in documents
        for number, text in enumerate(filter(str.strip, document.text.split("\n")))
    ]
    placed = place_questions(chunks, questions, answered_only=True)
    found = [question.id for asked in placed.values() for question in asked]
    assert len(questions) == 184 and len(found) == len(set(found)) and 70 <= len(found) <= 95  # the file marks 82


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(1990.0, ("1990",)), ([2.5, "half"], ("2.5", "half")), (True, "a truth value"), (None, "needs")],
)
def test_answers_that_are_not_texts_are_converted_or_refused(tmp_path, answer, expected):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"id": 3.0, "question": "When?", "answer": answer, "doc_ids": [1.0]}))
    if isinstance(expected, str):
        with pytest.raises(DocumentError, match=rf"q\.jsonl:1: .*{expected}"):
            read_document_questions(str(path))
        return
    (asked,) = read_document_questions(str(path))
    assert (asked.question.id, asked.question.answers, asked.document_ids) == ("3", expected, ("1",))


def test_two_questions_with_the_same_id_are_refused(tmp_path: Path):
    (tmp_path / "q.csv").write_text("id,question,answer\n7,Who?,Ada\n,Where?,Lima\n7,When?,1987\n")
    with pytest.raises(
        DocumentError, match=r"q\.csv:4: the id '7' is already on line 2; give each question its own id"
    ):
        read_document_questions(str(tmp_path / "q.csv"))
