"""Convert text to tokens and back, in one way for corpora, facts, questions and answers.

Text is data: text that spells out a special token such as </s> is encoded like any other text and
never becomes that token.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
"""SentencePiece's notation for a byte without a piece of its own. Some tokenizers mark these as
special, although they represent text."""


class EncodingError(ValueError):
    """A text cannot be encoded by this tokenizer."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The tokens of a text, without any that the tokenizer would add. Raises EncodingError like
    encode_all."""
    return encode_all(tokenizer, [text])[0]


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text. Raises EncodingError if the tokenizer cannot encode a text without a
    special token."""
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    control = control_ids(tokenizer)
    return [
        row if control.isdisjoint(row) else _as_text(tokenizer, text, control)
        for row, text in zip(rows, texts, strict=True)
    ]


def decode_all(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of each row. Special tokens are left out, but bytes are kept, even if the tokenizer
    marks them as special."""
    hidden = control_ids(tokenizer) | {tokenizer.unk_token_id}
    hidden |= {
        id
        for id, token in tokenizer.added_tokens_decoder.items()
        if token.special and len(token.content) > 1 and not BYTE_PIECE.fullmatch(token.content)
    }
    shown = [[id for id in row if id not in hidden] for row in rows]
    return list(tokenizer.batch_decode(shown, skip_special_tokens=False))


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that structure text, such as its end, which no text may contain. The unknown token is
    text, and so is a pad token that is a letter."""
    as_text = {tokenizer.unk_token_id}
    if len(tokenizer.pad_token or "") == 1 and tokenizer.pad_token_id != tokenizer.eos_token_id:
        as_text.add(tokenizer.pad_token_id)
    return set(tokenizer.all_special_ids) - as_text


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that pads rows to equal length. Any id will do, since a mask marks the padding."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def line_break_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that ends a line; none for a tokenizer that reads a line break as a space, such as
    T5's."""
    last = encode(tokenizer, "\n")[-1:]
    return last if "\n" in tokenizer.decode(last) else []


def _as_text(tokenizer: PreTrainedTokenizerBase, text: str, control: set[int]) -> list[int]:
    """Encode a text in which a special token is spelled out. Its name may be a piece of the
    vocabulary, so the text is cut within each such name."""
    cuts = _cut_positions(tokenizer, text, control)
    tokens: list[int] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        tokens += encode(tokenizer, text[start:end])
    return tokens


def _cut_positions(tokenizer: PreTrainedTokenizerBase, text: str, control: set[int]) -> list[int]:
    """Positions at which to cut. Raises EncodingError if a special token cannot be cut or the
    tokenizer does not give its position."""
    spans = []
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        spans = [(start, end) for id, (start, end) in pairs if id in control]
    if not spans or any(end - start < 2 for start, end in spans):
        raise EncodingError(
            f"the text {text[:60]!r} spells out a special token, and this tokenizer cannot encode it in other tokens; "
            "rewrite the text, or name another tokenizer (corpus.tokenizer)"
        )
    return [start + (end - start) // 2 for start, end in spans]
