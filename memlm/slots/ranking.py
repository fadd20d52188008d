"""Scores for how specific each accessed slot is to this batch; higher is more specific (Lin et al.
2025, section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a command line is checked without torch
    from collections.abc import Callable

    import torch
    from jaxtyping import Float
    from torch import Tensor

    from memlm.slots.counts import BackgroundCounts, SlotCounts


def tf_idf(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """Term frequency times inverse document frequency: the slot's share of the accesses times

        log((num_batches + 1) / (document_frequency + 1)).

    A slot that every background batch reads scores 0, however often this batch reads it. Only
    `random` uses the generator.
    """
    return tf(batch, background, generator) * inverse_document_frequency(batch, background)


def inverse_document_frequency(batch: SlotCounts, background: BackgroundCounts) -> Float[Tensor, " accessed"]:
    document_frequency = background.batch_frequency[batch.slots].double()
    return ((background.num_batches + 1) / (document_frequency + 1)).log()


def tf(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """Control: the share of the batch's accesses alone, ignoring other uses of the slot."""
    return batch.counts.double() / batch.counts.sum()


def kl(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """The slot's part of the KL divergence of the batch's accesses from the background's:
    p log(p / q), with q smoothed by one access per slot (arXiv 2605.03229, whose code also adds
    1e-8 to both)."""
    share = batch.counts.double() / batch.counts.sum()
    total = background.accesses.sum() + len(background.accesses)
    return share * (share / ((background.accesses[batch.slots] + 1).double() / total)).log()


def random(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """Random scores, as a control."""
    import torch

    return torch.rand(len(batch.slots), dtype=torch.float64, generator=generator).to(batch.slots.device)


def gradient(
    batch: SlotCounts, background: BackgroundCounts, norms: Float[Tensor, " accessed"]
) -> Float[Tensor, " accessed"]:
    """Ours: the norm of the slot's gradient times its inverse document frequency."""
    return norms * inverse_document_frequency(batch, background)


RANKINGS: dict[str, Callable[[SlotCounts, BackgroundCounts, torch.Generator], Float[Tensor, " accessed"]]] = {
    "tfidf": tf_idf,
    "tf": tf,
    "random": random,
    "kl": kl,
}
"""Rankings by what the batch reads, known before the backward pass."""
GRADIENT_RANKINGS: dict[
    str, Callable[[SlotCounts, BackgroundCounts, Float[Tensor, " accessed"]], Float[Tensor, " accessed"]]
] = {"gradient": gradient}
"""Rankings by the gradients of the slots' values, known after it."""

if TYPE_CHECKING:
    RankingName = str
else:
    RankingName = Literal[(*RANKINGS, *GRADIENT_RANKINGS)]
"""The names above, as choices on a command line."""
