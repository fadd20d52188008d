"""How do documents fill blocks of a fixed size, and where does each begin?

Tokens -> blocks, the last step of `prepare_corpus`; the positions are computed again from the
blocks wherever a model reads them.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


class PackingError(ValueError):
    """The documents cannot be packed as asked."""


def pack(
    documents: Iterable[Sequence[int]], *, block_size: int, eos_id: int, pad_id: int
) -> Iterator[Int[np.ndarray, " block_size"]]:
    """Lay the documents end to end, each followed by eos, and cut the row into blocks; only the
    last block has pads.

    A document longer than what is left of a block goes on in the next one, so no token is lost.
    """
    if block_size < 1:
        raise PackingError(f"block_size is {block_size}, but a block holds at least one token. Give a positive size.")
    if eos_id == pad_id:
        raise PackingError(
            f"eos_id and pad_id are both {eos_id}: pads are never trained on, so no end of text would be either. "
            "Give the tokenizer a pad token of its own."
        )
    return _pack(documents, block_size, eos_id, pad_id)


def _pack(
    documents: Iterable[Sequence[int]], block_size: int, eos_id: int, pad_id: int
) -> Iterator[Int[np.ndarray, " block_size"]]:
    block = np.full(block_size, pad_id, dtype=np.int32)
    filled = 0
    for document in documents:
        tokens = np.append(np.asarray(document, dtype=np.int32), np.int32(eos_id))
        while len(tokens):
            piece, tokens = tokens[: block_size - filled], tokens[block_size - filled :]
            block[filled : filled + len(piece)] = piece
            filled += len(piece)
            if filled == block_size:
                yield block
                block = np.full(block_size, pad_id, dtype=np.int32)
                filled = 0
    if filled:
        yield block


def is_text(tokens: Int[Tensor, "batch seq"], *, eos_id: int, pad_id: int) -> Bool[Tensor, "batch seq"]:
    """False on the pads of packed blocks, which are the run of pad_id that ends a row; True on
    everything else.

    An id alone does not say what a pad is: it may stand inside a text, and be the end of a text.
    Where the two ids are one, the first of that run is an end of text.
    """
    is_pad = (tokens == pad_id).flip(1).cumprod(dim=1).flip(1).bool()
    if pad_id == eos_id:
        is_pad[:, 1:] &= is_pad[:, :-1].clone()
        is_pad[:, 0] = False
    return ~is_pad


def document_positions(tokens: Int[Tensor, "batch seq"], *, eos_id: int) -> Int[Tensor, "batch seq"]:
    """Each token's position within its own document, from 0; the token after an eos begins anew.

    Given as `position_ids`, they keep attention within documents. A document that began in an
    earlier block counts from the block's start.
    """
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[:, 1:] = tokens[:, :-1] == eos_id
    last_start = torch.where(starts, index, 0).cummax(dim=1).values
    return index - last_start
