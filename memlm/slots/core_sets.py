"""Core sets of facts (the analysis of Lin et al. 2025, section 6), and the number of trainable
slots per token (the colours of their Table 1).

accesses of each wording -> slots that all wordings share -> of these, the slots read when the
question is answered: the core set
accesses of a token      -> how many of them are trainable: the token's colour
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from memlm.slots.accesses import accesses_of_tokens


class TokenReads(NamedTuple):
    """Slot counts of one token. A slot that several heads or layers read counts once."""

    num_read: int
    num_trainable: int


def accessed_by_rows(
    slots: Int[Tensor, "batch seq reads"], is_token: Bool[Tensor, "batch seq"]
) -> list[Int[Tensor, " accessed"]]:
    """The slots that each row reads, in ascending order; pads read none."""
    rows = zip(slots.split(1), is_token.split(1), strict=True)
    return [accesses_of_tokens(row, row_is_token).unique() for row, row_is_token in rows]


def intersection(sets: Sequence[Int[Tensor, " slots"]]) -> Int[Tensor, " shared"]:
    """The slots that are in all sets, in ascending order."""
    if not sets:
        raise ValueError("sets is empty, and the intersection of no sets is undefined; give at least one wording")
    return reduce(lambda shared, one: shared[torch.isin(shared, one)], sets[1:], sets[0].unique())


def core_set(wordings: Sequence[Int[Tensor, " accessed"]], answering: Int[Tensor, " accessed"]) -> Int[Tensor, " core"]:
    """The slots that every wording of a fact reads and that are also read when its question is
    answered, in ascending order."""
    return intersection([*wordings, answering])


def reads_of_tokens(slots: Int[Tensor, "seq reads"], trainable: Int[Tensor, " trainable"]) -> list[TokenReads]:
    """For each token, the number of slots it reads and how many of these are trainable."""
    reads = []
    for token in slots:
        read = token.unique()
        reads.append(TokenReads(num_read=len(read), num_trainable=int(torch.isin(read, trainable).sum())))
    return reads
