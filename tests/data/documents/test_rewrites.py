"""Texts that come with a document, of made-up ones and of SEAL's."""

import os

import pytest

from memlm.data.documents.documents import (
    DocumentError,
    TitledDocument,
    read_document_questions,
    read_titled_documents,
)
from memlm.data.documents.rewrites import lines_of, texts_given

LIST = """Certainly! Here is what follows from the passage:

**Implications:**

1. **Ada** left Rome in 1902.
   - She never came back to it.
2) *Bees:* She kept bees for 30 years.
---
Short line.
"""


def document(*rewrites: str, title: str = "Ada") -> TitledDocument:
    return TitledDocument(id="a", title=title, text="Ada was born in Rome. She died there.", rewrites=rewrites)


def test_the_lines_of_a_rewrite_are_those_that_say_something_without_marks():
    assert lines_of(LIST) == [
        "Ada left Rome in 1902.",
        "She never came back to it.",
        "Bees: She kept bees for 30 years.",
    ]
    assert lines_of("10.5 % of them are bees in 2*3*4 rows") == ["10.5 % of them are bees in 2*3*4 rows"]


def test_a_document_is_given_in_its_sentences_and_then_in_its_rewrites_under_its_title():
    texts = texts_given(document(LIST, "Ada left Rome in 1902.\nA line of the second."), 99)
    assert texts == [
        "Ada\nAda was born in Rome.",
        "Ada\nShe died there.",
        "Ada\nAda left Rome in 1902.",
        "Ada\nShe never came back to it.",
        "Ada\nBees: She kept bees for 30 years.",
        "Ada\nA line of the second.",
    ]
    assert texts_given(document(LIST, title=""), 3) == [
        "Ada was born in Rome.",
        "She died there.",
        "Ada left Rome in 1902.",
    ]


def test_a_document_without_rewrites_is_refused():
    with pytest.raises(
        DocumentError, match="document 'a' has no rewrites, and questions.documents.augmenter is 'given'"
    ):
        texts_given(document(), 3)


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="MEMLM_DATA names no folder with SEAL's passages")
def test_seals_passages_have_their_questions_and_rewrites():
    path = f"{os.environ['MEMLM_DATA']}/qa/seal_passages.jsonl.zst"
    (documents, empty), asked = read_titled_documents(path), read_document_questions(path)
    assert (len(documents), empty, len(asked)) == (100, [], 484)
    assert asked[0].question.question.startswith("Topic: Genghis Khan\nWhat feature of the Shah's army")
    assert len({each.question.id for each in asked}) == 484
    by_id = {each.id: each for each in documents}
    for each in asked:
        (id,) = each.document_ids
        assert any(answer in by_id[id].text for answer in each.question.answers), each
    texts = [texts_given(each, 999) for each in documents]
    assert min(map(len, texts)) >= 48 and 60 < sum(map(len, texts)) / 100 < 80
    assert not any("**" in text for given in texts for text in given)
