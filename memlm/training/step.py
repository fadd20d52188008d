"""One step of learning a fact, and the loss, shared by all methods."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memlm.data.questions.facts import FactBatch
from memlm.methods.method import Method, sum_over_ranks


@dataclass(frozen=True, kw_only=True)
class StepResult:
    loss: float
    """Nats per token over the step."""
    report: dict[str, float]
    """The method's report of the step: how many slots may move, how common they are."""


def next_token_loss(
    logits: Float[Tensor, "batch seq vocab"], tokens: Int[Tensor, "batch seq"], is_target: Bool[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """The sum over all targets, in nats. The first token of a row has nothing to be predicted
    from."""
    targets = tokens[:, 1:].masked_fill(~is_target[:, 1:], -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum")


def divergence(
    original: Float[Tensor, "batch seq vocab"],
    logits: Float[Tensor, "batch seq vocab"],
    is_target: Bool[Tensor, "batch seq"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """KL(original || model) at a temperature, times its square (Hinton et al. 2015, section 2.1);
    the sum over all targets, in nats."""
    predicted = is_target[:, 1:]
    of_original, of_model = (
        (each[:, :-1][predicted].float() / temperature).log_softmax(dim=-1) for each in (original, logits)
    )
    return temperature**2 * F.kl_div(of_model, of_original, log_target=True, reduction="sum")


def num_predicted(is_target: Bool[Tensor, "batch seq"]) -> int:
    return int(is_target[:, 1:].sum())


def finetune_step(method: Method, batches: list[FactBatch]) -> StepResult:
    """Learn one batch, given as this rank's micro-batches of it, of which there is at least one.

    The method chooses what may move; the loss is the mean over the tokens of all ranks. A rank's
    share may hold no token to predict; raises ValueError on every rank, before anything moves,
    if no share does.
    """
    device = batches[0].tokens.device
    num_targets = torch.tensor(sum(num_predicted(batch.is_target) for batch in batches), device=device)
    sum_over_ranks(num_targets)
    if not num_targets:
        raise ValueError(
            f"the batch of fact {batches[0].fact_id!r} has no token to predict: each of its rows holds at most one token that is "
            "no pad, and a row needs two; give the fact a statement"
        )
    total = torch.zeros((), device=device)
    with method.step(batches) as report:
        for batch in batches:
            logits = method.logits(batch)
            loss = next_token_loss(logits, batch.tokens, batch.is_target) / num_targets
            loss.backward()
            total += loss.detach()
    sum_over_ranks(total)
    return StepResult(loss=float(total), report=report)
