import os
import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from memlm.data.documents.chunking import Chunk, chunk_document, chunk_text, fitting_start, num_tokens, sentences_of
from memlm.data.documents.documents import read_titled_documents
from memlm.data.tokenizer import train_tokenizer

TEXT = "Heading.\nThe first paragraph is short. It has two sentences.\n\nThe second one, by Dr. A. Smith, follows."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of bytes with few merges: a character outside ASCII is several tokens."""
    return train_tokenizer([TEXT], vocab_size=270)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def check(text: str, pieces: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
    assert squeezed("".join(pieces)) == squeezed(text)  # nothing is lost, repeated or reordered
    assert all(piece and piece == piece.strip() for piece in pieces)
    assert all(num_tokens(piece, tokenizer) <= max_tokens for piece in pieces)


def test_a_chunk_is_a_paragraph_and_a_heading_joins_the_next_one(tokenizer):
    assert chunk_text(TEXT, tokenizer, max_tokens=200, min_tokens=15) == [
        "Heading.\nThe first paragraph is short. It has two sentences.",
        "The second one, by Dr. A. Smith, follows.",
    ]
    assert chunk_text(TEXT, tokenizer, max_tokens=200)[0] == "Heading."


def test_a_paragraph_that_is_too_long_is_cut_at_sentences(tokenizer):
    text = "The first is short. The second is too. A third."
    bound = num_tokens("The first is short. The second is too.", tokenizer)
    pieces = chunk_text(text, tokenizer, max_tokens=bound)
    check(text, pieces, tokenizer, bound)
    assert pieces == ["The first is short. The second is too.", "A third."]


def test_a_sentence_that_is_too_long_is_cut_after_a_word(tokenizer):
    text = "one two three four five six seven eight nine ten eleven twelve"
    pieces = chunk_text(text, tokenizer, max_tokens=12)
    check(text, pieces, tokenizer, 12)
    assert " ".join(pieces) == text


def test_a_word_that_is_too_long_is_cut(tokenizer):
    for text in ("x" * 50, "ü€" * 20):
        check(text, chunk_text(text, tokenizer, max_tokens=10), tokenizer, 10)


@pytest.mark.parametrize("max_tokens", [8, 15, 60])
@pytest.mark.parametrize("min_tokens", [0, 8])
def test_no_text_is_lost_whatever_the_bounds(tokenizer, max_tokens: int, min_tokens: int):
    check(TEXT, chunk_text(TEXT, tokenizer, max_tokens=max_tokens, min_tokens=min_tokens), tokenizer, max_tokens)


def test_an_empty_text_has_no_chunk(tokenizer):
    assert chunk_text(" \n\t\n", tokenizer, max_tokens=10) == []
    assert chunk_text("Ends in a heading.", tokenizer, max_tokens=50, min_tokens=40) == ["Ends in a heading."]


def test_sentences():
    text = 'He met Mrs. Jones, Dr. No and J. R. Smith in St. Ives. "Why?" she said. It cost 3.50 dollars! Then (so they say) it ended.\nA heading'
    assert sentences_of(text) == [
        "He met Mrs. Jones, Dr. No and J. R. Smith in St. Ives.",
        '"Why?" she said.',
        "It cost 3.50 dollars!",
        "Then (so they say) it ended.",
        "A heading",
    ]


def test_the_start_that_fits_ends_with_a_sentence(tokenizer):
    text = "One is first. Two comes next. Three is last."
    assert fitting_start(text, tokenizer, 100) == text
    assert (
        fitting_start(text, tokenizer, num_tokens("One is first. Two comes next.", tokenizer))
        == "One is first. Two comes next."
    )


def test_a_chunk_knows_its_document():
    assert Chunk(document_id="d", number=3, title="T", text="x").id == "d#3"
    assert Chunk(document_id="d", number=3, title="T", text="x").titled == "T\n\nx"
    assert Chunk(document_id="d", number=3, title="", text="x").titled == "x"


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="needs real documents: set MEMLM_DATA")
def test_real_documents_lose_nothing():
    path = Path(os.environ["MEMLM_DATA"]) / "qa" / "simpleqa_wiki_docs.jsonl.zst"
    documents, empty = read_titled_documents(str(path))
    assert len(documents) == 142 and not empty
    documents = documents[:12]
    tokenizer = train_tokenizer((document.text for document in documents), vocab_size=2000)
    for document in documents:
        pieces = chunk_text(document.text, tokenizer, max_tokens=200, min_tokens=24)
        check(document.text, pieces, tokenizer, 200)


def test_a_heading_titles_the_chunks_below_it_and_is_no_chunk_itself(tokenizer):
    text = (
        "Welcome.\n# Acme\n## The company\nAcme was founded in 1987.\n\nIt is in Lima.\n## Holidays\nThere are 25 days."
    )
    chunks = chunk_document("h", "Acme", text, tokenizer, max_tokens=60)
    assert [(chunk.id, chunk.title, chunk.text) for chunk in chunks] == [
        ("h#0", "Acme", "Welcome."),
        ("h#1", "Acme: The company", "Acme was founded in 1987."),
        ("h#2", "Acme: The company", "It is in Lima."),
        ("h#3", "Acme: Holidays", "There are 25 days."),
    ]
