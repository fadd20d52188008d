"""Cut a document into chunks: paragraphs. A paragraph that is too long is cut between sentences,
and a sentence that is too long between tokens.

A heading is part of the title of the chunks below it; a short paragraph is joined to the next one.
No part of the text is lost or repeated.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from memlm.data.documents.headings import sections_of
from memlm.data.encoding import encode

# A full stop, possibly a closing mark, then a space and a possible beginning of a sentence; not
# after an initial or a common abbreviation.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z]\.)(?<!\b(?:Mr|Dr|St|Jr|Sr|vs|No)\.)(?<!\b(?:Mrs|etc)\.)(?<=[.!?])[\"')\]”’]?\s+(?=[\"'(\[“‘]?[A-Z0-9])"
)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One piece of a document."""

    document_id: str
    number: int
    title: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.document_id}#{self.number}"

    @property
    def titled(self) -> str:
        """The text with the title of its document, without which a paragraph may not say what it is
        about."""
        return f"{self.title}\n\n{self.text}" if self.title else self.text


def chunk_document(
    document_id: str, title: str, text: str, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, min_tokens: int = 0
) -> list[Chunk]:
    """The document in chunks of at most max_tokens. Each is titled with the document's title and
    the headings above it."""
    pieces = [
        (": ".join(dict.fromkeys(filter(None, (title, *section.headings)))), piece)
        for section in sections_of(text)
        for piece in chunk_text(section.text, tokenizer, max_tokens=max_tokens, min_tokens=min_tokens)
    ]
    return [
        Chunk(document_id=document_id, number=number, title=name, text=piece)
        for number, (name, piece) in enumerate(pieces)
    ]


def chunk_text(text: str, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, min_tokens: int = 0) -> list[str]:
    """The text in pieces of at most max_tokens. Empty for a text of white space."""
    pieces: list[str] = []
    before = ""
    for paragraph in filter(None, map(str.strip, text.split("\n"))):
        joined = f"{before}\n{paragraph}" if before else paragraph
        length = num_tokens(joined, tokenizer)
        if before and length > max_tokens:
            pieces.append(before)
            joined, length = paragraph, num_tokens(paragraph, tokenizer)
        before = joined if length < min_tokens else ""
        if not before:
            pieces += [joined] if length <= max_tokens else _fitting(joined, tokenizer, max_tokens)
    return pieces + ([before] if before else [])


def sentences_of(text: str) -> list[str]:
    """The sentences of a text. A line break also ends a sentence."""
    return [sentence.strip() for line in text.split("\n") for sentence in _split_sentences(line) if sentence.strip()]


def fitting_start(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> str:
    """The text up to the last sentence that fits, or the part of the first sentence that fits."""
    return text if num_tokens(text, tokenizer) <= max_tokens else _fitting(text, tokenizer, max_tokens)[0]


def num_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(encode(tokenizer, text))


def _fitting(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[str]:
    if num_tokens(text, tokenizer) <= max_tokens:
        return [text]
    pieces: list[str] = []
    for sentence in _pieces_of_sentences(text, tokenizer, max_tokens):
        longer = f"{pieces[-1]}{sentence}" if pieces else sentence
        if pieces and num_tokens(longer.strip(), tokenizer) <= max_tokens:
            pieces[-1] = longer
        else:
            pieces.append(sentence)
    return [piece.strip() for piece in pieces if piece.strip()]


def _pieces_of_sentences(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Iterator[str]:
    """The sentences with the spaces after them; sentences that are too long are cut into pieces."""
    for line in text.splitlines(keepends=True):
        for sentence in _split_sentences(line):
            yield from _at_tokens(sentence, tokenizer, max_tokens)


def _split_sentences(line: str) -> list[str]:
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    return [line[start:end] for start, end in zip([0, *ends], [*ends, len(line)], strict=True)]


def _at_tokens(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Iterator[str]:
    """Pieces of at most max_tokens, cut after a word if possible."""
    while num_tokens(text.strip(), tokenizer) > max_tokens:
        cut = _longest_start(text, tokenizer, max_tokens)
        yield text[:cut]
        text = text[cut:]
    yield text


def _longest_start(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> int:
    """Number of characters that fit, found by bisection, since a character may be several tokens
    and a token several characters."""
    words: Sequence[int] = [match.end() for match in re.finditer(r"\S+\s*", text)]
    for ends in (words, range(1, len(text))):  # within a word only if the first word alone is too long
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high) // 2
            if num_tokens(text[: ends[middle]].strip(), tokenizer) <= max_tokens:
                low = middle + 1
            else:
                high = middle
        if low:
            return ends[low - 1]
    return 1
