"""Pretraining in plain torch, to compare with."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memlm.data.corpus.blocks import Blocks, batch_ids
from memlm.data.corpus.packing import document_positions
from memlm.training.config import PretrainingConfig
from memlm.training.pretrain import learning_rate_share
from tests.support.tiny import EOS, MEMORIES, PAD, state, tiny_model
from tests.training.pretraining.runs import CONFIG, NUM_BLOCKS


class PlainLazyAdam:
    """Adam (Kingma & Ba 2015, algorithm 1) on the rows of matrices that have a gradient, with
    one number of steps for all rows."""

    def __init__(self, matrices: list[Tensor], *, epsilon: float) -> None:
        self.matrices, self.epsilon, self.number = matrices, epsilon, 0
        self.moments = [(torch.zeros_like(matrix), torch.zeros_like(matrix)) for matrix in matrices]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        self.number += 1
        for matrix, (first, second) in zip(self.matrices, self.moments, strict=True):
            for row, gradient in enumerate(matrix.grad):
                if gradient.any():
                    first[row] = 0.9 * first[row] + (1 - 0.9) * gradient
                    second[row] = 0.95 * second[row] + (1 - 0.95) * gradient**2
                    corrected = (second[row] / (1 - 0.95**self.number)).sqrt() + self.epsilon
                    matrix[row] -= rate * first[row] / (1 - 0.9**self.number) / corrected
            matrix.grad = None


def plain_training(
    blocks: Blocks,
    config: PretrainingConfig,
    *,
    memory: str = "one layer",
    epsilon: float = 1e-8,
    num_steps: int = CONFIG.num_steps,
) -> dict:
    """The same run in plain torch: the mean loss over the global batch's tokens, clipped, AdamW
    with the groups' rates."""
    model = tiny_model(MEMORIES[memory]).train()
    named = dict(model.named_parameters())
    values = [parameter for name, parameter in named.items() if "value_pools" in name]
    matrices = [parameter for name, parameter in named.items() if parameter.ndim > 1 and "value_pools" not in name]
    vectors = [parameter for parameter in named.values() if parameter.ndim == 1]
    groups = [
        {"params": matrices, "peak": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": vectors, "peak": config.learning_rate, "weight_decay": 0.0},
    ]
    lazy = PlainLazyAdam(values if config.pool_optimizer == "lazy_adam" else [], epsilon=epsilon)
    if config.pool_optimizer == "adamw":
        groups.append({"params": values, "peak": config.value_learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=epsilon)
    losses, norms = [], []
    for step in range(num_steps):
        ids = batch_ids(seed=config.seed, step=step, batch_size=config.batch_blocks, num_blocks=NUM_BLOCKS)
        tokens = blocks.take(ids)
        logits = model(input_ids=tokens, position_ids=document_positions(tokens, eos_id=EOS), use_cache=False).logits
        targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == PAD, -100)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(step, config)
        optimizer.step()
        lazy.step(config.value_learning_rate * learning_rate_share(step, config))
        losses.append(loss.item())
    moments = {
        f"{number}.{name}_moments": moment
        for number, both in enumerate(lazy.moments)
        for name, moment in zip(("first", "second"), both, strict=True)
    }
    return {"losses": losses, "weights": state(model), "moments": moments, "norms": norms}


def assert_same_run(one: dict, other: dict) -> None:
    """To the tolerance of sums in another order, over steps that amplify it."""
    assert one["losses"] == pytest.approx(other["losses"], rel=2e-4)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(weight, other["weights"][name], rtol=1e-2, atol=2e-3)
