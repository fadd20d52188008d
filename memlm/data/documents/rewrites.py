"""Texts to learn a document from that come with it: its own sentences, and the lines of its
rewrites, such as lists of what follows from it.

Each text is one line under the document's title, as SEAL learns them (Zweiger et al. 2025, arXiv
2506.10943). Lines that only introduce others are left out.
"""

import re

from memlm.data.documents.chunking import sentences_of
from memlm.data.documents.documents import DocumentError, TitledDocument

MIN_WORDS = 4
"""A shorter line is a heading."""
_MARKS = re.compile(r"^[\s>#]*(?:[-*+•](?=\s)|\d{1,3}[.)](?=\s))?\s*")
_STRESS = re.compile(r"(?<!\w)(\*{1,3}|_{2,3})(?=\S)(.{1,1000}?)(?<=\S)\1(?!\w)")


def texts_given(document: TitledDocument, num_texts: int) -> list[str]:
    """Up to num_texts different texts: the document's sentences first, then its rewrites in their
    order. Raises DocumentError for a document without rewrites."""
    if not document.rewrites:
        raise DocumentError(
            f"document {document.id!r} has no rewrites, and questions.documents.augmenter is 'given'; give its record a list of texts as "
            "rewrites, or set the augmenter to 'rules'"
        )
    lines = [line for rewrite in document.rewrites for line in lines_of(rewrite)]
    texts = dict.fromkeys([*sentences_of(document.text), *lines])
    return [f"{document.title}\n{text}" if document.title else text for text in texts][:num_texts]


def lines_of(rewrite: str) -> list[str]:
    """The lines that say something, without the marks of lists and of Markdown."""
    lines = (_STRESS.sub(r"\2", _MARKS.sub("", line)).strip() for line in rewrite.splitlines())
    return [line for line in lines if len(line.split()) >= MIN_WORDS and not line.endswith(":")]
