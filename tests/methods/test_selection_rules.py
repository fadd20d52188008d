"""The selection rules other than the paper's: the slots that move, and how far."""

from dataclasses import replace

import pytest
import torch

from memlm.methods.config import OptimizerConfig
from memlm.methods.parts.pool_writers import RowSparseAdamWWriter
from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.weighted_read import TrainableRows
from memlm.slots.accesses import accesses_of
from memlm.slots.counts import count_slots
from memlm.training.step import finetune_step
from tests.support.tiny import (
    MEMORIES,
    changed_rows,
    plain_gradients,
    pool_rows,
    random_background,
    random_batch,
    sparse_config,
    state,
    tiny_model,
)

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def learn(model, config, *batches, background=None):
    method = SparseMemoryFinetuning(model, config, background or random_background(model), seed=0)
    before = state(model)
    reports = [finetune_step(method, [batch]).report for batch in batches]
    return before, state(model), reports, method


def pulled(model, batch):
    """The slots that are read and whose values the loss depends on; those that only the last
    token reads do not count."""
    read = accessed(model, batch)
    gradients = torch.cat(plain_gradients(model, [batch], read))
    return gradients.abs().sum(dim=1).nonzero().flatten().tolist()


def accessed(model, batch):
    return count_slots(accesses_of(model, input_ids=batch.tokens), batch.is_token).slots.tolist()


@every_memory
def test_all_moves_every_slot_that_is_read_and_no_other(memory):
    model, batch = tiny_model(memory), random_batch(0)
    read = pulled(model, batch)
    before, after, _, _ = learn(model, replace(sparse_config(), num_trainable_slots=0), batch)
    assert changed_rows(before, after) == read


@every_memory
def test_gradient_moves_the_slots_with_the_largest_gradient_times_idf_by_plain_sgd(memory):
    model, batch = tiny_model(memory), random_batch(0)
    background, read = random_background(model), accessed(model, batch)
    gradients = torch.cat(plain_gradients(model, [batch], read))
    idf = torch.log((background.num_batches + 1) / (background.batch_frequency.double() + 1))
    order = (gradients.norm(dim=1).double() * idf).argsort(descending=True, stable=True)
    config = replace(sparse_config(4), ranking="gradient")
    before, after, _, _ = learn(model, config, batch, background=background)
    assert changed_rows(before, after) == sorted(order[:4].tolist())
    moved = pool_rows(after) - pool_rows(before)
    torch.testing.assert_close(moved[order[:4]], -2.0 * gradients[order[:4]], rtol=1e-3, atol=1e-5)


def test_protection_divides_a_slots_rate_by_its_background_accesses():
    model, batch = tiny_model(), random_batch(0)
    background = random_background(model)
    plain_before, plain_after, _, _ = learn(tiny_model(), sparse_config(), batch, background=background)
    before, after, _, _ = learn(model, replace(sparse_config(), protection=0.01), batch, background=background)
    rate = 1 / (1 + 0.01 * background.accesses.double() / background.num_tokens * 1000)
    plain = (pool_rows(plain_after) - pool_rows(plain_before)).double()
    torch.testing.assert_close(
        (pool_rows(after) - pool_rows(before)).double(), plain * rate[:, None], rtol=1e-3, atol=1e-6
    )
    assert rate.min() < 0.9


def test_a_cap_keeps_common_slots_unchanged():
    model, batch = tiny_model(), random_batch(0)
    background = random_background(model)
    expected_to_move = pulled(model, batch)
    config = replace(sparse_config(50), max_document_frequency=0.5)
    before, after, _, _ = learn(model, config, batch, background=background)
    moved = changed_rows(before, after)
    expected = [slot for slot in expected_to_move if background.batch_frequency[slot] <= 18]
    assert moved == expected and expected


def test_a_living_background_spares_slots_of_earlier_facts_only():
    model, batch = tiny_model(), random_batch(0)
    other = batch._replace(fact_id="another")
    config = replace(sparse_config(5), living_background=10_000)
    _, _, fixed, _ = learn(tiny_model(), sparse_config(5), batch, other)
    _, _, living, method = learn(model, config, batch, other, batch)
    assert fixed[0]["background_share"] == fixed[1]["background_share"] == living[0]["background_share"]
    assert living[1]["background_share"] > 0.9, "every slot of the same text has become common"
    # The first fact again: its own accesses are taken out, the other's are not.
    assert living[2]["background_share"] > 0.9
    assert set(method.living.slots_of_fact) == {batch.fact_id, "another"}


@every_memory
def test_row_sparse_adamw_moves_the_selected_rows_and_does_not_leak(memory):
    model, config = tiny_model(memory), sparse_config(5, kind="row_sparse_adamw", learning_rate=0.01, weight_decay=0.1)
    method = SparseMemoryFinetuning(model, config, random_background(model), seed=0)
    for step in range(4):
        before = state(model)
        finetune_step(method, [random_batch(step)])
        assert changed_rows(before, state(model)) == method.selected_slots.tolist()


def test_row_sparse_adamw_is_adamw_on_each_rows_own_steps():
    model, generator = tiny_model(), torch.Generator().manual_seed(0)
    (pool,) = model.model.value_pools
    config = sparse_config(kind="row_sparse_adamw", learning_rate=0.01, weight_decay=0.1)
    writer, start = RowSparseAdamWWriter([pool], config), pool.weight.detach().clone()
    rows = {slot: torch.nn.Parameter(start[slot].clone()) for slot in (3, 5, 8)}
    plain = {slot: torch.optim.AdamW([row], lr=0.01, weight_decay=0.1) for slot, row in rows.items()}
    for slots in ([5], [3, 5], [3, 8], [5, 8], [3]):
        values = pool.weight.detach()[slots].requires_grad_(True)
        values.grad = torch.randn(values.shape, generator=generator)
        writer.write({pool: TrainableRows(torch.tensor(slots), values)})
        for slot, gradient in zip(slots, values.grad, strict=True):
            rows[slot].grad = gradient.clone()
            plain[slot].step()
    for slot, row in rows.items():
        torch.testing.assert_close(pool.weight[slot], row)
    others = [slot for slot in range(len(start)) if slot not in rows]
    assert torch.equal(pool.weight[others], start[others])


@pytest.mark.parametrize(("part", "names"), [("keys", ["half_keys"]), ("gates", ["gate.weight", "gate.bias"])])
def test_an_ablation_moves_only_its_part_and_the_values(part, names):
    model = tiny_model()
    config = replace(sparse_config(), trains_also=part, also_learning_rate=0.01)
    before, after, _, _ = learn(model, config, random_batch(0))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert sorted(moved) == sorted(
        [name for name in before if "value_pools" in name or any(name.endswith(part) for part in names)]
    )
    assert config.moves == "everything" and sparse_config().moves == "values"


@pytest.mark.parametrize("part", ["keys", "gates"])
@every_memory
def test_an_ablation_moves_its_part_of_every_layer(memory, part):
    """Also if a separate pass finds the accesses first."""
    model = tiny_model(memory)
    before, after, _, _ = learn(
        model, replace(sparse_config(), trains_also=part, also_learning_rate=0.01), random_batch(0)
    )
    name = {"keys": "half_keys", "gates": "gate.weight"}[part]
    moved = [not torch.equal(before[each], after[each]) for each in before if each.endswith(f"mlp.{name}")]
    assert moved == [True] * len(memory.layers)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, "sparse_memory"),
        ({"num_trainable_slots": 0}, "sparse_memory_all"),
        ({"ranking": "gradient", "living_background": 1}, "sparse_memory_gradient_living"),
        ({"max_document_frequency": 0.2}, "sparse_memory_capped"),
        ({"protection": 1.0}, "sparse_memory_protected"),
        ({"background": "new_facts"}, "sparse_memory_against_new_facts"),
        ({"optimizer": OptimizerConfig(kind="row_sparse_adamw")}, "sparse_memory_row_sparse_adamw"),
        ({"trains_also": "keys"}, "sparse_memory_and_keys"),
    ],
)
def test_a_control_is_named_after_its_change(fields, label):
    assert SparseMemoryConfig(**fields).label == label
