"""Pack documents into blocks of a fixed size, and find where each document begins.

Packing is the last step of `prepare_corpus`. Models recompute the positions from the blocks.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


class PackingError(ValueError):
    """The documents cannot be packed as requested."""


def pack(
    documents: Iterable[Sequence[int]], *, block_size: int, eos_id: int, pad_id: int
) -> Iterator[Int[np.ndarray, " block_size"]]:
    """Concatenate the documents, each followed by eos, and cut the result into blocks; only the
    last block has pads.

    A document that does not fit into the rest of a block continues in the next one, so no token is
    lost.
    """
    if block_size < 1:
        raise PackingError(f"block_size is {block_size}, but a block holds at least one token. Give a positive size.")
    if eos_id == pad_id:
        raise PackingError(
            f"eos_id and pad_id are both {eos_id}: pads are never trained on, so ends of text would not be either. "
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
    """False on the pads of packed blocks, which are the run of pad_id at the end of a row; True on
    everything else.

    The id alone does not identify a pad, because pad_id may occur within a text or equal eos_id. If
    the two ids are equal, the first of that run is an end of text.
    """
    is_pad = (tokens == pad_id).flip(1).cumprod(dim=1).flip(1).bool()
    if pad_id == eos_id:
        is_pad[:, 1:] &= is_pad[:, :-1].clone()
        is_pad[:, 0] = False
    return ~is_pad


def document_positions(tokens: Int[Tensor, "batch seq"], *, eos_id: int) -> Int[Tensor, "batch seq"]:
    """Each token's position within its own document, from 0; the token after an eos is at 0 again.

    Given as `position_ids`, the positions keep attention within documents. A document that began
    in an earlier block counts from the start of the block.
    """
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[:, 1:] = tokens[:, :-1] == eos_id
    last_start = torch.where(starts, index, 0).cummax(dim=1).values
    return index - last_start
