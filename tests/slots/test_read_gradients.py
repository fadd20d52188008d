"""Gradients at the outputs of reads, by the definition; with a mutant that the check catches."""

from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F

from memlm.slots import read_gradients as module
from memlm.slots.accesses import reads_of, value_pools
from memlm.slots.read_gradients import read_gradients
from tests.support.tiny import MEMORIES, TWO_SHARED, random_batch, state, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def draws_for(tokens: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed))


def drawn(probabilities: torch.Tensor, draw: float) -> int:
    """The first label at which the probabilities so far exceed the draw."""
    so_far = 0.0
    for label, probability in enumerate(probabilities.tolist()):
        so_far += probability
        if so_far > draw:
            return label
    return len(probabilities) - 1


def plain_gradients(model, batch, draws) -> torch.Tensor:
    """Gradients of zeros added to each output, in the order of the layers."""
    zeros: list[torch.Tensor] = []

    def add_zero(pool, inputs, output):
        zeros.append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[-1]

    with ExitStack() as hooks:
        for pool in value_pools(model):
            hooks.callback(pool.register_forward_hook(add_zero).remove)
        logits = model(input_ids=batch.tokens).logits
    loss = torch.zeros(())
    for row, row_draws, row_is_token in zip(logits, draws.tolist(), batch.is_token, strict=True):
        for each, draw, is_token in zip(row, row_draws, row_is_token, strict=True):
            if is_token:
                loss = loss + F.cross_entropy(each, torch.tensor(drawn(each.softmax(-1), draw)))
    loss.backward()
    return torch.stack([zero.grad.view(*batch.tokens.shape, -1) for zero in zeros], dim=-2)


def check_gradients_are_the_plain_ones(memory):
    for seed in range(3):
        model, batch = tiny_model(memory), random_batch(seed)
        draws = draws_for(batch.tokens, seed)
        found = read_gradients(model, batch.is_token, draws, input_ids=batch.tokens)
        torch.testing.assert_close(found.gradients, plain_gradients(model, batch, draws), rtol=1e-4, atol=1e-6)


@every_memory
def test_gradients_are_the_plain_ones(memory):
    """Those of a lower layer hold what an upper one reads for it, too."""
    check_gradients_are_the_plain_ones(memory)


def test_mutant_that_cuts_the_way_through_an_upper_layers_weights_is_caught(monkeypatch):
    def cut(model, outputs):
        def leave(pool, inputs, output):
            outputs.append(output.detach().requires_grad_(True))
            return outputs[-1]

        hooks = ExitStack()
        for pool in value_pools(model):
            hooks.callback(pool.register_forward_hook(leave).remove)
        return hooks

    monkeypatch.setattr(module, "_leaving_outputs", cut)
    with pytest.raises(AssertionError):
        check_gradients_are_the_plain_ones(TWO_SHARED)


@every_memory
def test_the_reads_are_those_of_a_pass_without_gradients(memory):
    model, batch = tiny_model(memory), random_batch(0)
    found = read_gradients(model, batch.is_token, draws_for(batch.tokens), input_ids=batch.tokens)
    slots, weights = reads_of(model, input_ids=batch.tokens)
    assert torch.equal(found.slots, slots) and torch.equal(found.weights, weights)
    assert not found.weights.requires_grad and not found.gradients.requires_grad


def test_labels_are_drawn_by_the_models_probabilities():
    """Over evenly spaced draws, the frequencies of the labels are the probabilities."""
    number = 4000
    logits = torch.randn(30, generator=torch.Generator().manual_seed(0)) * 2
    logits[7] = -torch.inf
    draws = (torch.arange(number) + 0.5) / number
    gradients = module._gradient_of_drawn(logits.expand(1, number, 30), draws[None])[0]
    assert gradients.mean(dim=0).abs().max() <= 2 / number
    labels = gradients.argmin(dim=1)
    assert not (labels == 7).any() and labels.unique().numel() > 10
    extreme = module._gradient_of_drawn(logits.expand(1, 2, 30), torch.tensor([[0.0, 1 - 2**-24]]))[0]
    assert extreme.argmin(dim=1).tolist() == [0, 29]


def test_a_token_before_pads_alone_is_as_sensitive_as_if_it_were_the_last():
    model, batch = tiny_model(), random_batch(0)
    longer = random_batch(0, seq=13)
    draws = draws_for(longer.tokens)
    found = read_gradients(model, longer.is_token, draws, input_ids=longer.tokens)
    short = read_gradients(model, batch.is_token, draws[:, :7], input_ids=batch.tokens)
    torch.testing.assert_close(found.gradients[:, :7], short.gradients)
    assert not found.gradients[~longer.is_token].any() and found.gradients[longer.is_token].any(-1).all()


def test_the_model_is_left_unchanged():
    model, batch = tiny_model(), random_batch(0)
    model.model.embed_tokens.weight.requires_grad_(False)
    before, needs = state(model), [parameter.requires_grad for parameter in model.parameters()]
    read_gradients(model, batch.is_token, draws_for(batch.tokens), input_ids=batch.tokens)
    with pytest.raises(IndexError):
        read_gradients(model, batch.is_token, draws_for(batch.tokens), input_ids=batch.tokens + 10_000)
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert not any(pool._forward_hooks for pool in value_pools(model)) and model.memory_layers[0].on_access is None
