"""Trials that share weights: none sees changes of another, and none writes to shared weights."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from peft.tuners.lora import Linear

from memlm.jobs.sweep.weights import TrialWeights, pool_weights
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig
from memlm.methods.lora import LoRAConfig
from memlm.methods.method import LearningInputs
from memlm.methods.parts import pool_writers
from memlm.methods.parts.adapters import MergedAdapter
from memlm.model.memory import ValuePool
from memlm.training.step import finetune_step
from tests.support.families import tiny_base
from tests.support.tiny import MEMORIES, random_background, random_batch, sparse_config, state, tiny_model

CPU = torch.device("cpu")
every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
RATE = OptimizerConfig(learning_rate=0.05, weight_decay=0.1)
METHODS = {
    "sparse memory": sparse_config(6),
    "sparse memory, more slots": sparse_config(20, learning_rate=0.3),
    "sparse memory, AdamW": sparse_config(6, kind="adamw", learning_rate=0.05, weight_decay=0.1),
    "LoRA": LoRAConfig(rank=2, optimizer=RATE),
    "full": FullConfig(optimizer=RATE),
}
every_method = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)


def arrays_of(model):
    """Arrays as from the object store: numpy refuses to write to them, torch does not."""
    arrays = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def weights_of(model):
    return TrialWeights(model.config, arrays_of(model), CPU)


def learn(model, config, seeds):
    """Weights after learning."""
    method = config.build(model, LearningInputs(background=random_background(model), seed=0))
    for seed in seeds:
        finetune_step(method, [random_batch(seed)])
    return state(method.finish())


def run(weights, name, memory):
    """Run one trial; each method learns its own batches."""
    with weights.model_for(METHODS[name]) as model:
        first = list(METHODS).index(name)
        return learn(model, METHODS[name], range(first, first + 3))


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def check_order_does_not_matter(memory):
    there, back = weights_of(tiny_model(memory)), weights_of(tiny_model(memory))
    forwards = {name: run(there, name, memory) for name in METHODS}
    backwards = {name: run(back, name, memory) for name in reversed(METHODS)}
    for name in METHODS:
        assert_same(forwards[name], backwards[name])
        alone = tiny_model(memory)
        first = list(METHODS).index(name)
        assert_same(forwards[name], learn(alone, METHODS[name], range(first, first + 3)))


def test_a_base_whose_embeddings_are_tied_learns_as_it_does_alone():
    def learned(model):
        method = METHODS["full"].build(model, LearningInputs(background=None, seed=0))
        finetune_step(method, [random_batch(0)])
        return state(method.finish())

    weights = weights_of(tiny_base("llama", tie_word_embeddings=True))
    for _ in range(2):
        with weights.model_for(METHODS["full"]) as model:
            assert model.lm_head.weight is model.model.embed_tokens.weight
            assert_same(learned(model), learned(tiny_base("llama", tie_word_embeddings=True)))


@every_memory
def test_trials_give_the_same_bits_in_either_order_and_alone(memory):
    check_order_does_not_matter(memory)


@pytest.mark.parametrize("mutant", ["forgets some rows", "forgets AdamW's rows"])
def test_mutants_that_leave_rows_behind_are_caught(monkeypatch, mutant):
    if mutant == "forgets some rows":
        announced = ValuePool.announce_write
        monkeypatch.setattr(ValuePool, "announce_write", lambda self, slots: announced(self, slots[1:]))
    else:
        made = pool_writers.AdamWWriter.__init__

        def init(self, pools, config):
            observers = [pool.on_write for pool in pools]
            for pool in pools:
                pool.on_write = None
            made(self, pools, config)
            for pool, observer in zip(pools, observers, strict=True):
                pool.on_write = observer

        monkeypatch.setattr(pool_writers.AdamWWriter, "__init__", init)
    with pytest.raises(AssertionError):
        check_order_does_not_matter(MEMORIES["one layer"])


def check_shared_weights_stay(memory, config):
    model = tiny_model(memory)
    arrays = arrays_of(model)
    before = {name: array.copy() for name, array in arrays.items()}
    weights = TrialWeights(model.config, arrays, CPU)
    for _ in range(2):
        with weights.model_for(config) as lent:
            learned = learn(lent, config, range(3))
        assert any(not np.array_equal(before[name], learned[name].numpy()) for name in before)
        assert all(np.array_equal(before[name], arrays[name]) for name in before)


@every_memory
@every_method
def test_no_trial_writes_to_the_shared_weights(memory, config):
    check_shared_weights_stay(memory, config)


def test_mutant_that_merges_into_the_shared_weights_is_caught(monkeypatch):
    monkeypatch.setattr(MergedAdapter, "finish", lambda self: self.model.merge_and_unload())
    with pytest.raises(AssertionError):
        check_shared_weights_stay(MEMORIES["one layer"], METHODS["LoRA"])


def watch_writes(model):
    """Slots that are written from now on, by pool, next to the slots that the weights' owner
    records."""
    seen = {}
    for pool in pool_weights(model).values():
        lender, seen[pool] = pool.on_write, []
        pool.on_write = lambda slots, lender=lender, own=seen[pool]: (own.append(slots), lender(slots))
    return seen


def shares(tensor, array):
    return np.shares_memory(tensor.detach().numpy(), array)


def test_weights_that_a_trial_does_not_write_to_are_the_shared_array():
    model = tiny_model()
    arrays = arrays_of(model)
    weights = TrialWeights(model.config, arrays, CPU)
    pools = set(pool_weights(model))
    assert pools == {"model.value_pools.0.weight"}
    for config, own in (
        (METHODS["sparse memory"], pools),
        (METHODS["full"], set(arrays)),
        (METHODS["LoRA"], set()),
    ):
        with weights.model_for(config) as lent:
            assert {name for name, tensor in lent.state_dict().items() if not shares(tensor, arrays[name])} == own
    assert all(shares(tensor, arrays[name]) for name, tensor in weights.model().state_dict().items())


def test_adapters_train_next_to_the_shared_matrices():
    """Nothing of the base is copied before the adapters are merged."""
    model = tiny_model(dense=True)
    arrays = arrays_of(model)
    with TrialWeights(model.config, arrays, CPU).model_for(METHODS["LoRA"]) as lent:
        method = METHODS["LoRA"].build(lent, LearningInputs(background=None, seed=0))
        finetune_step(method, [random_batch(0)])
        adapted = [module for module in method.model.modules() if isinstance(module, Linear)]
        assert len(adapted) == 21
        stored = list(arrays.values())
        assert all(any(shares(each.get_base_layer().weight, array) for array in stored) for each in adapted)


def test_the_pool_is_copied_once_and_only_its_moved_rows_are_put_back(monkeypatch):
    weights = weights_of(tiny_model())
    run(weights, "sparse memory", None)
    (pool,) = weights.pools.values()
    address, mark = pool.data_ptr(), pool.clone()
    with weights.model_for(METHODS["sparse memory"]) as lent:
        (written,) = watch_writes(lent).values()
        learned = learn(lent, METHODS["sparse memory"], range(3))
        moved = torch.cat(written).unique()
        pool += 1.0  # rows that the trial did not move are not restored
    (pool,) = weights.pools.values()
    assert pool.data_ptr() == address and 6 <= len(moved) <= 18
    put_back = (pool == mark).all(dim=1).nonzero().flatten()
    assert put_back.tolist() == moved.tolist()
    assert not torch.equal(learned["model.value_pools.0.weight"], mark)


@every_memory
@every_method
def test_a_trial_that_fails_or_diverges_leaves_nothing_behind(memory, config):
    weights, other = weights_of(tiny_model(memory)), weights_of(tiny_model(memory))
    with suppress(ZeroDivisionError), weights.model_for(config) as lent:
        seen = watch_writes(lent) if config.moves == "values" else {}
        learn(lent, config, range(3))
        for pool, written in seen.items():
            pool.weight.data[torch.cat(written)] = math.nan
        raise ZeroDivisionError
    with weights.model_for(METHODS["full"]) as ours, other.model_for(METHODS["full"]) as theirs:
        assert_same(state(ours), state(theirs))
    with weights.model_for(METHODS["sparse memory"]) as ours, other.model_for(METHODS["sparse memory"]) as theirs:
        assert_same(state(ours), state(theirs))
        assert all(parameter.requires_grad for parameter in ours.parameters())
        assert all(pool.gradient_target is None for pool in ours.model.value_pools)
        tokens = random_batch(9).tokens
        assert torch.equal(ours(input_ids=tokens).logits, tiny_model(memory)(input_ids=tokens).logits)
