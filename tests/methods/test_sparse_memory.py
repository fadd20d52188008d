"""Invariants 1, 2, 3 and 5 of sparse memory finetuning, each with mutants that show that its
check can fail."""

from dataclasses import replace

import pytest
import torch

from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.weighted_read import TrainableRows
from memlm.slots.counts import BackgroundCounts, count_slots
from memlm.training.step import finetune_step
from tests.support.tiny import (
    MEMORIES,
    MEMORY,
    TWO_SHARED,
    LargestAllocation,
    changed_rows,
    num_slots,
    plain_gradients,
    plain_selection,
    pool_rows,
    random_background,
    random_batch,
    read_slots,
    rows_of,
    sparse_config,
    state,
    tiny_model,
)

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
SPLITS = {
    "one micro-batch": (slice(0, 4),),
    "two": (slice(0, 2), slice(2, 4)),
    "two of unequal size": (slice(0, 3), slice(3, 4)),
    "four": tuple(slice(row, row + 1) for row in range(4)),
}
every_split = pytest.mark.parametrize("chunks", SPLITS.values(), ids=SPLITS)
T = 6


class CountsPads(SparseMemoryFinetuning):
    def _count(self, slots, batch):
        return count_slots(slots, torch.ones_like(batch.is_token))


class TrainsOneMoreRow(SparseMemoryFinetuning):
    def update(self):
        pool = self.pools[0]
        chosen = set(self.rows[pool].slots.tolist()) if pool in self.rows else set()
        super().update()
        pool.weight.data[next(slot for slot in range(len(pool.weight)) if slot not in chosen)] += 1e-3


class DecaysEveryRow(SparseMemoryFinetuning):
    def update(self):
        super().update()
        for pool in self.pools:
            pool.weight.data.mul_(1 - 1e-4)


class MovesTheGate(SparseMemoryFinetuning):
    def update(self):
        super().update()
        self.model.memory_layers[0].gate.bias.data[0] += 1e-6


class SelectsFromTheFirstMicroBatch(SparseMemoryFinetuning):
    def choose(self, batches, report):
        super().choose(batches[:1], report)


class IgnoresTheBackground(SparseMemoryFinetuning):
    def __init__(self, model, config, background, *, seed):
        super().__init__(model, config, BackgroundCounts.zero(num_slots(model)), seed=seed)


def step(model, batches, *, method=SparseMemoryFinetuning, config=None, background=None):
    background = background or random_background(model)
    return finetune_step(method(model, config or sparse_config(T), background, seed=0), batches)


# Invariant 1 and the plain definition


def check_only_selected_rows_change(memory, method, chunks=(slice(0, 4),)):
    model, batch = tiny_model(memory), random_batch(0)
    background = random_background(model)
    selected = plain_selection(model, [batch], background, T)
    before = state(model)
    step(model, rows_of(batch, *chunks), method=method, background=background)
    after = state(model)
    assert changed_rows(before, after) == selected
    for name in before:
        assert "value_pools" in name or torch.equal(before[name], after[name]), name


@every_memory
@every_split
def test_exactly_the_selected_rows_change(memory, chunks):
    check_only_selected_rows_change(memory, SparseMemoryFinetuning, chunks)


@every_memory
@pytest.mark.parametrize("mutant", [TrainsOneMoreRow, DecaysEveryRow, MovesTheGate, IgnoresTheBackground, CountsPads])
def test_mutants_that_change_other_rows_are_caught(memory, mutant):
    with pytest.raises(AssertionError):
        check_only_selected_rows_change(memory, mutant)


def check_step_is_the_plain_definition(memory, method=SparseMemoryFinetuning, chunks=(slice(0, 4),), weight_decay=0.0):
    """Dense gradient, rows outside the selection zeroed, SGD."""
    model, batch = tiny_model(memory), random_batch(0)
    background = random_background(model)
    selected = plain_selection(model, [batch], background, T)
    gradients = torch.cat(plain_gradients(model, [batch], selected))
    rows = pool_rows(state(model))
    decay = torch.zeros(len(rows), 1)
    decay[selected] = weight_decay
    config = sparse_config(T, learning_rate=1.5, weight_decay=weight_decay)
    result = step(model, rows_of(batch, *chunks), method=method, config=config, background=background)
    torch.testing.assert_close(pool_rows(state(model)), rows - 1.5 * (gradients + decay * rows))
    assert bool((gradients[selected] != 0).any(dim=1).all())  # so each selected row has something to learn
    assert result.report["num_trainable_slots"] == T


@every_memory
@every_split
def test_a_step_is_the_plain_definition(memory, chunks):
    check_step_is_the_plain_definition(memory, chunks=chunks)


@every_memory
def test_a_step_with_weight_decay_decays_the_selected_rows_alone(memory):
    check_step_is_the_plain_definition(memory, weight_decay=0.1)


@every_memory
def test_several_steps_are_the_plain_definition_each_time(memory):
    model, background = tiny_model(memory), random_background(tiny_model(memory))
    method = SparseMemoryFinetuning(model, sparse_config(T, learning_rate=0.5), background, seed=0)
    for seed in range(3):
        batch = random_batch(seed)
        gradients = plain_gradients(model, [batch], plain_selection(model, [batch], background, T))
        expected = pool_rows(state(model)) - 0.5 * torch.cat(gradients)
        finetune_step(method, [batch])
        torch.testing.assert_close(pool_rows(state(model)), expected)


def test_mutant_without_the_gradient_through_an_upper_layers_weights_is_caught(monkeypatch):
    """The output of a lower memory layer determines the lookups of an upper one."""

    read = TrainableRows.read
    monkeypatch.setattr(
        TrainableRows, "read", lambda self, values, slots, weights: read(self, values, slots, weights.detach())
    )
    check_step_is_the_plain_definition(MEMORY)  # with one layer there is no such path
    with pytest.raises(AssertionError):
        check_step_is_the_plain_definition(TWO_SHARED)


@every_memory
def test_no_gradient_remains_or_has_the_pools_size(memory):
    model = tiny_model(memory)
    step(model, [random_batch(0)])
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert all(pool.gradient_target is None for pool in model.model.value_pools)


@every_memory
@every_split
def test_a_step_that_fails_leaves_nothing_behind(memory, chunks):
    model, batches = tiny_model(memory), rows_of(random_batch(0), *chunks)
    before = state(model)
    method = SparseMemoryFinetuning(model, sparse_config(T), random_background(model), seed=0)
    with pytest.raises(RuntimeError, match="on purpose"), method.step(batches):
        method.logits(batches[0]).sum().backward()
        raise RuntimeError("on purpose")
    assert all(pool.gradient_target is None for pool in method.pools)
    assert all(layer.on_access is None for layer in method.layers)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    begun = []
    model.register_forward_pre_hook(lambda *_: begun.append(True))
    method.logits(batches[0])
    assert begun  # nothing recorded is read any more


class WalksThePool(SparseMemoryFinetuning):
    def _open_rows(self, selected):
        super()._open_rows(selected)
        self.is_selected = torch.zeros(self.pools[0].num_slots, dtype=torch.bool).index_fill_(0, selected, True)


def check_nothing_of_the_pools_size_is_made(memory, method=SparseMemoryFinetuning):
    model = tiny_model(replace(memory, num_half_keys=200))
    background = random_background(model)
    trained = method(model, sparse_config(T), background, seed=0)
    with LargestAllocation(model, background.batch_frequency) as largest:
        finetune_step(trained, rows_of(random_batch(0), slice(0, 4)))
    assert 0 < largest.num_elements < 200**2


@every_memory
def test_a_step_makes_nothing_of_the_pools_size(memory):
    check_nothing_of_the_pools_size_is_made(memory)


def test_mutant_that_walks_the_pool_is_caught():
    with pytest.raises(AssertionError):
        check_nothing_of_the_pools_size_is_made(MEMORY, WalksThePool)


@every_memory
def test_gradient_checkpointing_gives_the_same_step(memory):
    plain, checkpointed = tiny_model(memory), tiny_model(memory)
    checkpointed.train().activation_checkpointing_enable({"use_reentrant": False})
    results = [step(model, [random_batch(0)]) for model in (plain, checkpointed)]
    assert results[0].report == results[1].report
    torch.testing.assert_close(pool_rows(state(plain)), pool_rows(state(checkpointed)))


def test_a_step_lowers_the_loss():
    model, batch, background = tiny_model(), random_batch(0), BackgroundCounts.zero(81)
    method = SparseMemoryFinetuning(model, sparse_config(81, learning_rate=0.5), background, seed=0)
    losses = [finetune_step(method, [batch]).loss for _ in range(10)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.01


# Invariant 2


def find_prompts(model, changed, *, reads_changed, count=5):
    """Prompts of four tokens of which at least one token reads a changed slot, or none does."""
    found = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(5000):
        prompt = torch.randint(0, 48, (1, 4), generator=generator)
        if bool(torch.isin(read_slots(model, prompt), torch.tensor(changed)).any()) == reads_changed:
            found.append(prompt)
        if len(found) == count:
            return torch.cat(found)
    raise LookupError(f"found {len(found)} of {count} prompts; choose another batch")


def logits_of(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def check_other_prompts_keep_their_logits(memory, method):
    model, batch, t = tiny_model(memory), random_batch(0), 2
    background = random_background(model)
    selected = plain_selection(model, [batch], background, t)
    other = find_prompts(model, selected, reads_changed=False)
    touched = find_prompts(model, selected, reads_changed=True)
    before = [logits_of(model, prompts) for prompts in (other, touched)]
    step(model, [batch], method=method, config=sparse_config(t), background=background)
    after = [logits_of(model, prompts) for prompts in (other, touched)]
    assert torch.equal(before[0], after[0])
    assert all(not torch.equal(*logits) for logits in zip(before[1], after[1], strict=True))


@every_memory
def test_a_prompt_that_reads_no_changed_slot_keeps_its_logits_to_the_bit(memory):
    check_other_prompts_keep_their_logits(memory, SparseMemoryFinetuning)


@pytest.mark.parametrize("mutant", [DecaysEveryRow, MovesTheGate])
def test_mutants_that_move_more_change_other_prompts(mutant):
    with pytest.raises(AssertionError):
        check_other_prompts_keep_their_logits(MEMORY, mutant)


# Invariant 3 (over ranks: test_two_ranks.py)


def check_split_does_not_matter(memory, method, chunks, ranking="tfidf"):
    config = SparseMemoryConfig(num_trainable_slots=T, ranking=ranking, optimizer=sparse_config().optimizer)
    batch, models = random_batch(0), [tiny_model(memory) for _ in range(2)]
    before = state(models[0])
    results = [
        step(model, rows_of(batch, *parts), method=method, config=config)
        for model, parts in zip(models, [(slice(0, 4),), chunks], strict=True)
    ]
    after = [state(model) for model in models]
    assert results[0].report == results[1].report
    assert changed_rows(before, after[0]) == changed_rows(before, after[1])
    torch.testing.assert_close(pool_rows(after[0]), pool_rows(after[1]))
    assert results[0].loss == pytest.approx(results[1].loss)


@every_memory
@every_split
@pytest.mark.parametrize("ranking", ["tfidf", "tf", "random"])
def test_the_step_does_not_depend_on_the_split_into_micro_batches(memory, chunks, ranking):
    check_split_does_not_matter(memory, SparseMemoryFinetuning, chunks, ranking)


@every_memory
def test_mutant_that_selects_from_one_micro_batch_is_caught(memory):
    with pytest.raises(AssertionError):
        check_split_does_not_matter(memory, SelectsFromTheFirstMicroBatch, SPLITS["two"])


# Invariant 5


def check_pads_change_nothing(memory, method):
    """Other pads give the same step to the bit; more pads give it to rounding, with the same
    rows."""
    batch, longer = random_batch(0), random_batch(0, seq=13)
    others = batch._replace(tokens=batch.tokens.masked_fill(~batch.is_token, 3))
    models = [tiny_model(memory) for _ in range(3)]
    before = state(models[0])
    results = [step(model, [each], method=method) for model, each in zip(models, [batch, others, longer], strict=True)]
    after = [pool_rows(state(model)) for model in models]
    assert results[0] == results[1]
    assert torch.equal(after[0], after[1])
    assert results[0].report == results[2].report
    assert changed_rows(before, state(models[0])) == changed_rows(before, state(models[2]))
    torch.testing.assert_close(after[0], after[2])


@every_memory
def test_pads_are_neither_counted_nor_trained_on(memory):
    check_pads_change_nothing(memory, SparseMemoryFinetuning)


@every_memory
def test_mutant_that_counts_pads_is_caught(memory):
    with pytest.raises(AssertionError):
        check_pads_change_nothing(memory, CountsPads)


# Rankings, the report, and what is refused


@pytest.mark.parametrize("ranking", ["tfidf", "tf", "random"])
def test_only_slots_that_the_batch_reads_are_chosen(ranking):
    model, batch = tiny_model(), random_batch(0, lengths=(3,))
    read = set(read_slots(model, batch.tokens).flatten().tolist())
    before = state(model)
    config = SparseMemoryConfig(num_trainable_slots=81, ranking=ranking, optimizer=sparse_config().optimizer)
    result = step(model, [batch], config=config)
    assert set(changed_rows(before, state(model))) <= read
    assert result.report["num_trainable_slots"] == result.report["num_accessed_slots"] == len(read)


def chosen_by(ranking, seed):
    model = tiny_model()
    before = state(model)
    config = SparseMemoryConfig(num_trainable_slots=T, ranking=ranking, optimizer=sparse_config().optimizer)
    method = SparseMemoryFinetuning(model, config, random_background(model), seed=seed)
    finetune_step(method, [random_batch(0)])
    return changed_rows(before, state(model))


def test_the_rankings_choose_different_slots():
    assert len({tuple(chosen_by(ranking, 0)) for ranking in ("tfidf", "tf", "random")}) == 3


def test_the_seed_changes_only_the_random_control():
    assert chosen_by("random", 0) == chosen_by("random", 0) != chosen_by("random", 1)
    assert chosen_by("tfidf", 0) == chosen_by("tfidf", 1)


def test_the_report_gives_the_document_frequency_of_the_chosen_slots():
    model, batch = tiny_model(), random_batch(0)
    background = random_background(model)
    selected = plain_selection(model, [batch], background, T)
    share = float(background.batch_frequency[selected].double().mean()) / 37
    assert step(model, [batch], background=background).report["background_share"] == pytest.approx(share)


def test_counts_of_another_checkpoint_are_refused():
    with pytest.raises(ValueError, match="are of 80 slots and the model has 81.*count_accesses"):
        SparseMemoryFinetuning(tiny_model(), sparse_config(), BackgroundCounts.zero(80), seed=0)


def test_more_trainable_slots_than_the_pool_has_are_refused():
    with pytest.raises(ValueError, match="num_trainable_slots is 82, more than the pool's 81 slots"):
        SparseMemoryFinetuning(tiny_model(), sparse_config(82), BackgroundCounts.zero(81), seed=0)


def test_a_dense_checkpoint_is_refused():
    with pytest.raises(ValueError, match="no memory layer"):
        SparseMemoryFinetuning(tiny_model(dense=True), sparse_config(), BackgroundCounts.zero(81), seed=0)


# AdamW's leak


def adamw_steps(memory, *, weight_decay, num_steps=2):
    """States before and after each step, and each step's selection, over batches that differ."""
    model = tiny_model(memory)
    background = random_background(model)
    config = sparse_config(T, kind="adamw", learning_rate=0.01, weight_decay=weight_decay)
    method = SparseMemoryFinetuning(model, config, background, seed=0)
    states, selections = [state(model)], []
    for seed in range(num_steps):
        batch = random_batch(seed)
        selections.append(set(plain_selection(model, [batch], background, T)))
        finetune_step(method, [batch])
        states.append(state(model))
    return states, selections


@every_memory
def test_adamw_leak_rows_that_left_the_selection_keep_moving(memory):
    states, (first, second) = adamw_steps(memory, weight_decay=0.0)
    assert first - second  # some rows leave
    assert set(changed_rows(states[0], states[1])) == first
    assert set(changed_rows(states[1], states[2])) == first | second


@every_memory
def test_adamw_leak_weight_decay_moves_every_row(memory):
    states, _ = adamw_steps(memory, weight_decay=0.1, num_steps=1)
    assert len(changed_rows(states[0], states[1])) == len(pool_rows(states[0]))


@every_memory
def test_adamw_moves_nothing_outside_the_pools(memory):
    states, _ = adamw_steps(memory, weight_decay=0.1)
    assert all(torch.equal(states[0][name], states[-1][name]) for name in states[0] if "value_pools" not in name)


@every_memory
def test_adamw_is_torchs_over_the_masked_dense_gradient(memory):
    model = tiny_model(memory)
    background = random_background(model)
    rows = torch.nn.Parameter(pool_rows(state(model)))
    reference = torch.optim.AdamW([rows], lr=0.01, weight_decay=0.1)
    config = sparse_config(T, kind="adamw", learning_rate=0.01, weight_decay=0.1)
    method = SparseMemoryFinetuning(model, config, background, seed=0)
    for seed in range(3):
        batch = random_batch(seed)
        selected = plain_selection(model, [batch], background, T)
        rows.grad = torch.cat(plain_gradients(model, [batch], selected))
        reference.step()
        finetune_step(method, [batch])
        torch.testing.assert_close(pool_rows(state(model)), rows.detach(), rtol=1e-4, atol=1e-5)
