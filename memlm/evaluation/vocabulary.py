"""What scoring knows of each token of a vocabulary."""

import json

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from memlm.data.encoding import BYTE_PIECE


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
