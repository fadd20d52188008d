import math

import pytest
import torch
import torch.nn.functional as F

from memlm.model import memory
from memlm.model.memory import MemoryLayer, ValuePool
from memlm.model.weighted_read import TrainableRows
from memlm.slots.accesses import on_accesses
from tests.support.tiny import MEMORIES, all_scores, random_batch, tiny_model


def new_layer(*, query_norm=False, seed=0):
    torch.manual_seed(seed)
    pool = ValuePool(49, 5)
    layer = MemoryLayer(pool, hidden_size=8, num_half_keys=7, top_k=3, num_heads=2, key_dim=6, query_norm=query_norm)
    for module in (pool, layer):
        module.reset_parameters()
    return layer


def random_reads(*, tokens=9, reads=6, num_slots=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randint(0, num_slots, (tokens, reads), generator=generator)
    return slots, torch.rand(tokens, reads, generator=generator)


def test_the_weighted_read_is_gather_and_sum():
    pool = ValuePool(20, 7)
    pool.reset_parameters()
    slots, weights = random_reads()
    torch.testing.assert_close(pool(slots, weights), (pool.weight[slots] * weights[..., None]).sum(dim=1))


@pytest.mark.parametrize("query_norm", [False, True])
def test_the_layer_computes_its_formula(query_norm):
    layer = new_layer(query_norm=query_norm)
    with torch.no_grad():
        for parameter in layer.parameters():  # biases and norms too, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.1)
    x = torch.randn(2, 4, 8)
    queries = (x @ layer.query.weight.T + layer.query.bias).view(8, 2, 6)
    if query_norm:
        queries = queries / (queries.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * layer.query_norm.weight
    scores, slots = all_scores(queries, layer.half_keys).topk(3)
    values = (layer.pool.weight[slots] * scores.softmax(dim=-1)[..., None]).sum(dim=(1, 2)).view(2, 4, 5)
    gate = F.silu(x @ layer.gate.weight.T + layer.gate.bias)
    expected = (values * gate) @ layer.output.weight.T + layer.output.bias
    torch.testing.assert_close(layer(x), expected)


def test_softmax_is_per_head():
    _, weights = new_layer().search(torch.randn(5, 8))
    torch.testing.assert_close(weights.view(5, 2, 3).sum(dim=-1), torch.ones(5, 2))


def row_gradient(pool, row_slots, slots, weights, grad_output):
    values = pool.weight.detach()[row_slots].clone().requires_grad_(True)
    with pool.sending_gradients_to(TrainableRows(row_slots, values)):
        output = pool(slots, weights)
    return output, *torch.autograd.grad(output, [values, *([weights] if weights.requires_grad else [])], grad_output)


@pytest.mark.parametrize(
    "row_slots",
    [[0, 3, 4, 11, 19], [7], list(range(20)), [20, 21], [0, 21]],
    ids=["some", "one", "all that are read", "none that is read", "first and last"],
)
def test_the_gradient_of_the_trainable_rows_is_the_dense_one_at_those_rows(row_slots):
    pool = ValuePool(22, 7)
    pool.reset_parameters()
    slots, weights = random_reads()
    weights.requires_grad_(True)
    grad_output = torch.randn(9, 7)
    plain = (pool.weight[slots] * weights[..., None]).sum(dim=1)
    dense, through_weights = torch.autograd.grad(plain, [pool.weight, weights], grad_output)
    output, rows, through_weights_of_rows = row_gradient(pool, torch.tensor(row_slots), slots, weights, grad_output)
    torch.testing.assert_close(output, plain)
    torch.testing.assert_close(rows, dense[row_slots])
    torch.testing.assert_close(through_weights_of_rows, through_weights)


def test_the_gradient_of_the_trainable_rows_is_the_same_every_time():
    pool = ValuePool(20, 7)
    pool.reset_parameters()
    slots, weights = random_reads(tokens=200)
    grad_output, row_slots = torch.randn(200, 7), torch.tensor([1, 2, 17])
    first, second = (row_gradient(pool, row_slots, slots, weights, grad_output)[1] for _ in range(2))
    assert torch.equal(first, second)


def test_the_read_with_trainable_rows_is_the_read_of_the_pool_to_the_bit():
    pool = ValuePool(20, 7)
    pool.reset_parameters()
    slots, weights = random_reads()
    output, _ = row_gradient(pool, torch.tensor([1, 5]), slots, weights, torch.ones(9, 7))
    assert torch.equal(output, pool(slots, weights))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_pool_of_16_bits_gives_its_fp32_rows_a_gradient(dtype):
    pool = ValuePool(20, 7).to(dtype)
    pool.reset_parameters()
    slots, weights = random_reads()
    values = pool.weight.detach()[:4].float().requires_grad_(True)
    with pool.sending_gradients_to(TrainableRows(torch.arange(4), values)):
        pool(slots, weights).sum().backward()
    expected = torch.zeros(20).index_add_(0, slots.flatten(), weights.flatten())[:4, None].expand(4, 7)
    torch.testing.assert_close(values.grad, expected, rtol=0.02, atol=0.02)


def test_initial_scales():
    """The memory's scales are its own, not those that the base model's initialisation would
    use."""
    model = tiny_model()
    layer = model.memory_layers[0]
    assert float(layer.pool.weight.detach().std()) == pytest.approx(10**-0.5, rel=0.1)
    for linear in (layer.gate, layer.output):
        assert float(linear.weight.detach().std()) == pytest.approx(12**-0.5, rel=0.25)
        assert not linear.bias.any()
    bound = 1 / math.sqrt(6)
    assert 0.8 * bound < float(layer.half_keys.detach().abs().max()) <= bound
    assert not layer.query.bias.any()


def count_calls(model, *, use_reentrant):
    """The slots handed over, and the number of searches, in one forward and backward pass with
    checkpointing."""
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    batch, calls, searches = random_batch(0), [], []
    for layer in model.memory_layers:
        layer.query.register_forward_pre_hook(lambda *_: searches.append(1))
    with on_accesses(model, lambda number, slots: calls.append((number, slots))):
        model(input_ids=batch.tokens, use_cache=False).logits.square().mean().backward()
    return calls, len(searches)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("memory_config", MEMORIES.values(), ids=MEMORIES)
def test_gradient_checkpointing_reports_accesses_once(memory_config, use_reentrant):
    model = tiny_model(memory_config)
    calls, num_searches = count_calls(model, use_reentrant=use_reentrant)
    num_layers = len(model.memory_layers)
    assert [number for number, _ in calls] == list(range(num_layers))
    assert num_searches == 2 * num_layers  # so the pass was recomputed


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_mutant_that_ignores_recomputation_reports_accesses_twice(monkeypatch, use_reentrant):
    monkeypatch.setattr(memory, "_inside_backward", lambda: False)
    calls, _ = count_calls(tiny_model(), use_reentrant=use_reentrant)
    assert [number for number, _ in calls] == [0, 0]


@pytest.mark.parametrize("shape", [(0, 8), (0, 5, 8), (2, 0, 8)])
def test_an_empty_batch_gives_an_empty_output(shape):
    layer = new_layer()
    assert layer(torch.zeros(shape)).shape == shape
