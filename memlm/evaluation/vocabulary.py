"""What scoring knows of each token of a vocabulary."""

import json
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memlm.data.corpus.packing import is_text
from memlm.data.encoding import BYTE_PIECE, decode_all, padding_id

NEWLINE = "\n"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Properties of each token, by its id."""

    num_bytes: Int[Tensor, " vocab"]
    """Bytes of text that it stands for; 0 for special tokens."""
    is_end: Bool[Tensor, " vocab"]
    """Whether it ends a text or a line."""
    unigram_nats: Float[Tensor, " vocab"]
    """Its nats under a unigram model of background text: the score of a model that knows how common
    each token is, and nothing else."""


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, background: Int[Tensor, "blocks block_size"]) -> Vocabulary:
    """The properties of the tokenizer's tokens; `background` are packed blocks of text."""
    ids = {"eos_id": int(tokenizer.eos_token_id), "pad_id": padding_id(tokenizer)}
    return Vocabulary(
        num_bytes=num_bytes_of(tokenizer),
        is_end=ends_of(tokenizer),
        unigram_nats=unigram_nats(background, vocab_size=len(tokenizer), **ids),
    )


def ends_of(tokenizer: PreTrainedTokenizerBase) -> Bool[Tensor, " vocab"]:
    """True for the end of text, and for tokens whose text holds a newline."""
    texts = decode_all(tokenizer, [[id] for id in range(len(tokenizer))])
    return torch.tensor([NEWLINE in text or id == tokenizer.eos_token_id for id, text in enumerate(texts)])


def unigram_nats(
    blocks: Int[Tensor, "blocks block_size"], *, vocab_size: int, eos_id: int, pad_id: int
) -> Float[Tensor, " vocab"]:
    """-ln of each token's share of the text, with one added to every token's count; float64. Pads
    are not counted."""
    counts = torch.bincount(blocks[is_text(blocks, eos_id=eos_id, pad_id=pad_id)], minlength=vocab_size) + 1
    return -(counts.double() / counts.sum()).log()


def num_bytes_of(tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " vocab"]:
    """The number of bytes of text that each token stands for; 0 for special tokens.

    A byte-level tokenizer writes each byte as one character, even half of an accented letter.
    SentencePiece writes a space as a character of three bytes, and a byte without a piece as
    <0xE2>.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    is_byte_level = backend is not None and '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])
    length = len if is_byte_level else _sentencepiece_bytes
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return torch.tensor([0 if id in special else length(piece) for id, piece in enumerate(pieces)])


def _sentencepiece_bytes(piece: str) -> int:
    return 1 if BYTE_PIECE.fullmatch(piece) else len(piece.replace("▁", " ").encode())
