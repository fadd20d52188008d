"""Scores for how specific each accessed slot is to this batch; higher is more specific (Lin et al.
2025, section 4)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from memlm.slots.counts import BackgroundCounts, SlotCounts


def tf_idf(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """The slot's share of the batch's accesses times log((num_batches + 1) / (document_frequency
    + 1)).

    A slot that every background batch reads scores 0, however often this batch reads it.
    """
    return tf(batch, background, generator) * inverse_document_frequency(batch, background)


def inverse_document_frequency(batch: SlotCounts, background: BackgroundCounts) -> Float[Tensor, " accessed"]:
    document_frequency = background.batch_frequency[batch.slots].double()
    return torch.log((background.num_batches + 1) / (document_frequency + 1))


def tf(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """Control: the share of the batch's accesses alone, ignoring other uses of the slot."""
    return batch.counts.double() / batch.counts.sum()


def kl(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """The slot's part of the KL divergence of the batch's accesses from the background's:
    p log(p / q), with q smoothed by one access per slot (arXiv 2605.03229, whose code also adds
    1e-8 to both)."""
    share = batch.counts.double() / batch.counts.sum()
    total = background.accesses.sum() + len(background.accesses)
    return share * torch.log(share / ((background.accesses[batch.slots] + 1).double() / total))


def random(batch: SlotCounts, background: BackgroundCounts, generator: torch.Generator) -> Float[Tensor, " accessed"]:
    """Control: random scores."""
    return torch.rand(len(batch.slots), dtype=torch.float64, generator=generator).to(batch.slots.device)


Ranking = Callable[[SlotCounts, BackgroundCounts, torch.Generator], Float[Tensor, " accessed"]]
RANKINGS: dict[str, Ranking] = {"tfidf": tf_idf, "tf": tf, "kl": kl, "random": random}
