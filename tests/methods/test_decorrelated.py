"""Decorrelated sparse memory finetuning: its step by the definition, which rows move, and what is
kept from pass to pass; with mutants that the checks catch."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from memlm.methods.config import OptimizerConfig
from memlm.methods.method import LearningInputs
from memlm.methods.parts import decorrelated_finetuning
from memlm.methods.parts.decorrelated_finetuning import DecorrelatedFinetuning
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig
from memlm.slots.accesses import reads_of
from memlm.training.step import finetune_step
from tests.support.tiny import (
    MEMORIES,
    MEMORY,
    TWO_SHARED,
    background_reads,
    changed_rows,
    count_reads,
    learning_inputs,
    num_slots,
    plain_gradients,
    pool_rows,
    random_background,
    random_batch,
    random_statements,
    rows_of,
    state,
    tiny_model,
)

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
SPLITS = {"one micro-batch": (slice(0, 4),), "three": (slice(0, 2), slice(2, 3), slice(3, 4))}
every_split = pytest.mark.parametrize("chunks", SPLITS.values(), ids=SPLITS)
every_number = pytest.mark.parametrize("t", [6, 0])
RATE, TOKENS = 1.5, 30.0


def config_of(t=0, **fields) -> SparseMemoryDecorrelatedConfig:
    optimizer = OptimizerConfig(kind="sgd", learning_rate=RATE)
    return SparseMemoryDecorrelatedConfig(
        num_trainable_slots=t, **{"halved_at_tokens": TOKENS, "optimizer": optimizer, **fields}
    )


def learner(model, config, *, reads=None, method=DecorrelatedFinetuning):
    inputs = learning_inputs(model, reads)
    return method(model, config, inputs)


def most_read(counts: Counter[int], t: int) -> list[int]:
    """The t slots with the most reads, of equal ones the lower; all for 0."""
    return sorted(sorted(counts, key=lambda slot: (-counts[slot], slot))[: t or None])


def plain_step(model, batch, statements, t, moment, damping):
    """The definition: the rows of the statements, their dense block of C, and one dense solve."""
    rows = most_read(count_reads(model, [statements]), t)
    gradient = torch.cat(plain_gradients(model, [batch], rows))[rows].double()
    matrix = torch.eye(len(rows), dtype=torch.float64) + moment[rows][:, rows] / damping
    expected = pool_rows(state(model))
    expected[rows] -= RATE * torch.linalg.solve(matrix, gradient).float()
    return rows, expected


def check_steps_are_the_plain_definition(memory, t, chunks, method=DecorrelatedFinetuning):
    model = tiny_model(memory)
    reads = background_reads(model)
    moment, damping = reads.second_moment(torch.arange(num_slots(model))), reads.mean_square / TOKENS
    trained = learner(model, config_of(t), reads=reads, method=method)
    # With one layer, the third step is the first fact's second pass. An upper layer's reads change
    # as the lower one learns, so there each fact is met once.
    for seed in (0, 1, 0) if len(memory.layers) == 1 else (0, 1, 2):
        before, batch = state(model), random_batch(seed)
        rows, expected = plain_step(model, batch, batch, t, moment, damping)
        finetune_step(trained, rows_of(batch, *chunks))
        torch.testing.assert_close(pool_rows(state(model)), expected, rtol=1e-4, atol=1e-6)
        assert set(changed_rows(before, state(model))) <= set(rows)
        assert trained.selected_slots.tolist() == rows
        others = [name for name in before if "value_pools" not in name]
        assert all(torch.equal(before[name], state(model)[name]) for name in others)


@every_memory
@every_split
@every_number
def test_a_step_is_the_plain_definition(memory, chunks, t):
    check_steps_are_the_plain_definition(memory, t, chunks)


class ForgetsTheIdentity(DecorrelatedFinetuning):
    def update(self):
        factor = self.decorrelation.factor
        self.decorrelation.factor = lambda *arguments: 2 * factor(*arguments)
        super().update()


class MovesByTheDiagonal(DecorrelatedFinetuning):
    def update(self):
        factor = self.decorrelation.factor
        self.decorrelation.factor = lambda *arguments: factor(*arguments).diag().diag()
        super().update()


class MovesTheGate(DecorrelatedFinetuning):
    def update(self):
        super().update()
        self.model.memory_layers[0].gate.bias.data[0] += 1e-6


class ChoosesByTheBatch(DecorrelatedFinetuning):
    def choose(self, batches, report):
        self.facts.clear()
        self.statements = lambda fact_id: batches[0]
        super().choose(batches, report)


@pytest.mark.parametrize("mutant", [ForgetsTheIdentity, MovesByTheDiagonal, MovesTheGate])
@every_number
def test_mutants_are_caught(mutant, t):
    with pytest.raises(AssertionError):
        check_steps_are_the_plain_definition(MEMORY, t, SPLITS["one micro-batch"], mutant)


def test_mutant_that_chooses_by_one_micro_batch_is_caught():
    with pytest.raises(AssertionError):
        check_steps_are_the_plain_definition(MEMORY, 6, SPLITS["three"], ChoosesByTheBatch)


@pytest.mark.parametrize("t", [4, 30])
def test_both_forms_of_the_step_agree(t, monkeypatch):
    """By the tokens' gradients, and by those of the rows; whether the inverse or the factor is
    kept."""
    ends = []
    for by_token, max_inverse in ((True, 4096), (False, 4096), (False, 0)):
        monkeypatch.setattr(DecorrelatedFinetuning, "_steps_by_token", lambda self, fact, chosen=by_token: chosen)
        monkeypatch.setattr(decorrelated_finetuning, "MAX_INVERSE", max_inverse)
        model = tiny_model()
        trained = learner(model, config_of(t))
        for seed in (0, 1, 0):
            finetune_step(trained, rows_of(random_batch(seed), *SPLITS["three"]))
        ends.append(pool_rows(state(model)))
    torch.testing.assert_close(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])


def test_the_form_is_the_smaller_one():
    model = tiny_model()
    forms = []
    for t in (6, 0):
        trained = learner(model, config_of(t))
        fact = trained._fact("fact 0", rows_at_once=4)
        forms.append((len(fact.slots) > fact.reads.num_tokens, trained._steps_by_token(fact)))
    assert forms == [(False, False), (True, True)]


@pytest.mark.parametrize("kept_bytes", [0, 3000, 2**30])
def test_what_is_kept_changes_no_bit(kept_bytes):
    ends = []
    for max_bytes in (2**30, kept_bytes):
        model = tiny_model()
        trained = learner(model, config_of(kept_bytes=max_bytes))
        for seed in (0, 1, 2, 1, 0, 2):
            finetune_step(trained, [random_batch(seed)])
        assert trained.decorrelation.reads.kept.num_bytes <= max_bytes
        ends.append(state(model))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_what_an_earlier_trial_kept_holds_only_for_facts_with_the_same_reads():
    """Above a first memory layer, what a fact reads depends on what was learned before, and with it
    what others spare."""

    def learned(rate: float, reads):
        model = tiny_model(TWO_SHARED)
        optimizer = OptimizerConfig(kind="sgd", learning_rate=rate)
        trained = learner(model, config_of(continual=3.0, optimizer=optimizer), reads=reads)
        for seed in (0, 1, 2, 0, 1, 2):
            finetune_step(trained, [random_batch(seed)])
        return pool_rows(state(model))

    used, fresh = (background_reads(tiny_model(TWO_SHARED)) for _ in range(2))
    learned(20.0, used)
    assert torch.equal(learned(RATE, used), learned(RATE, fresh))


def factors_made(monkeypatch, run) -> int:
    made = []
    factor = decorrelated_finetuning.Decorrelation.factor
    monkeypatch.setattr(
        decorrelated_finetuning.Decorrelation,
        "factor",
        lambda self, slots, learned=None: made.append(1) or factor(self, slots, learned),
    )
    run()
    return len(made)


@every_memory
def test_a_factor_serves_all_passes_and_later_trials(memory, monkeypatch):
    reads = background_reads(tiny_model(memory))

    def run(trials=2, **fields):
        for _ in range(trials):
            trained = learner(tiny_model(memory), config_of(5, **fields), reads=reads)
            for seed in (0, 1, 1, 0):
                finetune_step(trained, [random_batch(seed)])

    per_fact = len(tiny_model(memory).model.value_pools)  # each pool has a block of its own
    assert 2 <= factors_made(monkeypatch, run) <= 2 * per_fact
    assert factors_made(monkeypatch, run) == 0
    # another lambda has other factors
    assert factors_made(monkeypatch, lambda: run(trials=1, halved_at_tokens=31.0)) > 0


def test_rows_are_those_of_all_statements_and_stay():
    """A batch with some of the wordings moves the same rows, also those that it does not read."""
    model, whole = tiny_model(), random_batch(0)
    trained = learner(model, config_of(0))
    read = set(count_reads(model, [whole]))
    for part in rows_of(whole, slice(0, 2), slice(2, 4), slice(3, 4)):
        before = state(model)
        finetune_step(trained, [part])
        assert set(trained.selected_slots.tolist()) == read
        changed = set(changed_rows(before, state(model)))
        assert changed <= read and changed - set(count_reads(model, [part]))  # by negative mixing


def test_all_rows_that_may_move_are_announced():
    model = tiny_model()
    announced = []
    model.model.value_pools[0].on_write = announced.append
    for t in (6, 0):
        trained = learner(model, config_of(t))
        announced.clear()
        finetune_step(trained, [random_batch(0)])
        assert [slots.tolist() for slots in announced] == [trained.selected_slots.tolist()]


@every_number
def test_pads_change_nothing(t):
    batch, longer = random_batch(0), random_batch(0, seq=13)
    others = batch._replace(tokens=batch.tokens.masked_fill(~batch.is_token, 3))
    ends = []
    for each in (batch, others, longer):
        model = tiny_model()
        trained = learner(model, config_of(t))
        trained.statements = lambda fact_id, each=each: each
        finetune_step(trained, [each])
        ends.append(pool_rows(state(model)))
    assert torch.equal(ends[0], ends[1])
    torch.testing.assert_close(ends[0], ends[2])


@every_number
def test_gradient_checkpointing_gives_the_same_step(t):
    ends = []
    for checkpointed in (False, True):
        model = tiny_model()
        if checkpointed:
            model.train().activation_checkpointing_enable({"use_reentrant": False})
        finetune_step(learner(model, config_of(t)), rows_of(random_batch(0), *SPLITS["three"]))
        ends.append(pool_rows(state(model)))
    torch.testing.assert_close(ends[0], ends[1])


@every_memory
@every_number
def test_a_step_that_fails_leaves_nothing_behind(memory, t):
    model, batch = tiny_model(memory), random_batch(0)
    before, trained = state(model), learner(model, config_of(t))
    with pytest.raises(RuntimeError, match="on purpose"), trained.step([batch]):
        trained.logits(batch).sum().backward()
        raise RuntimeError("on purpose")
    assert all(pool.gradient_target is None for pool in trained.pools)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_background_text_moves_less_than_by_sgd_at_equal_gain():
    """What the step is for: at the same first-order gain, what background tokens read moves
    less."""
    moved = {}
    model = tiny_model()
    reads = background_reads(model, num_batches=40)
    for tokens in (1e-6, 1e3):  # the first is SGD
        model = tiny_model()
        before, batch = pool_rows(state(model)), random_batch(0)
        gradient = torch.cat(plain_gradients(model, [batch], list(range(81))))
        finetune_step(learner(model, config_of(halved_at_tokens=tokens), reads=reads), [batch])
        change = (pool_rows(state(model)) - before).double()
        gain = -(change * gradient).sum()
        moment = reads.second_moment(torch.arange(81))
        moved[tokens] = float(torch.einsum("id,ij,jd->", change, moment, change) / gain**2)
    assert moved[1e3] < 0.7 * moved[1e-6]


# Variants


def test_continual_counts_the_tokens_of_other_facts():
    """The factor of each step is that of C and the facts learned before, without the fact's
    own."""
    model, weight = tiny_model(), 3.0
    reads = background_reads(model)
    moment, damping = reads.second_moment(torch.arange(81)), reads.mean_square / TOKENS
    trained = learner(model, config_of(continual=weight), reads=reads)
    of_fact = {}
    for seed in (0, 1, 2, 1, 0, 0):
        batch = random_batch(seed)
        slots, weights = reads_of(model, input_ids=batch.tokens)
        dense = torch.zeros(21, 81, dtype=torch.float64)
        dense.scatter_add_(1, slots[batch.is_token].flatten(1), weights[batch.is_token].flatten(1).double())
        others = sum((each.T @ each for other, each in of_fact.items() if other != seed), torch.zeros(81, 81))
        _, expected = plain_step(model, batch, batch, 0, moment + weight * others / reads.num_tokens, damping)
        finetune_step(trained, [batch])
        of_fact[seed] = dense
        torch.testing.assert_close(pool_rows(state(model)), expected, rtol=1e-4, atol=1e-6)


@every_memory
@every_number
def test_a_row_belongs_to_the_first_fact_that_moves_it(memory, t):
    model = tiny_model(memory)
    trained = learner(model, config_of(t, owned_rows=True))
    owner: dict[int, int] = {}
    for seed in (0, 1, 2, 3, 4, 1, 0, 4):
        before = state(model)
        finetune_step(trained, [random_batch(seed)])
        assert all(owner.setdefault(slot, seed) == seed for slot in trained.selected_slots.tolist())
        assert set(changed_rows(before, state(model))) <= set(trained.selected_slots.tolist())


def test_a_fact_with_rows_of_its_own_is_undone_from_the_middle():
    model = tiny_model()
    base, trained, rows = state(model), learner(model, config_of(9, owned_rows=True)), {}
    for seed in (0, 1, 2, 0, 1, 2):
        finetune_step(trained, [random_batch(seed)])
        rows[seed] = trained.selected_slots.tolist()
    (values,) = model.model.value_pools
    end = pool_rows(state(model))
    with torch.no_grad():
        values.weight[rows[1]] = pool_rows(base)[rows[1]]
    changed = (pool_rows(state(model)) != pool_rows(base)).any(dim=1).nonzero().flatten().tolist()
    assert set(changed) == {*rows[0], *rows[2]} and rows[1], "nothing of the fact is left"
    assert torch.equal(pool_rows(state(model))[changed], end[changed]), "and the others' rows are as they were"


@every_memory
def test_a_fact_without_a_row_of_its_own_moves_nothing(memory):
    model = tiny_model(memory)
    trained = learner(model, config_of(owned_rows=True))
    finetune_step(trained, [random_batch(0)])
    before = state(model)
    trained.statements = lambda fact_id: random_batch(0)
    result = finetune_step(trained, [random_batch(0)._replace(fact_id="the same again")])
    if memory is MEMORY:  # elsewhere the upper layer reads others, now that the lower one has moved
        assert result.report["num_trainable_slots"] == 0
        assert all(torch.equal(value, before[name]) for name, value in state(model).items())


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_trainable_slots": -1}, "num_trainable_slots is -1"),
        ({"ranking": "gradient"}, "ranking is gradient, which is known only after.*give one of tfidf, tf"),
        ({"halved_at_tokens": 0.0}, "halved_at_tokens is 0.0, from which lambda follows; it must be above 0"),
        ({"halved_at_tokens": float("inf")}, "halved_at_tokens is inf"),
        ({"halved_at_tokens": float("nan")}, "halved_at_tokens is nan"),
        ({"continual": -1.0}, "continual is -1.0"),
        ({"kept_bytes": -1}, "kept_bytes is -1"),
        ({"background": "corpus_without_tested", "ranking": "tfidf"}, "ranking tfidf, which ranks against counts of"),
        ({"optimizer": OptimizerConfig(kind="adamw")}, "kind is adamw.*set them to sgd and 0"),
        ({"optimizer": OptimizerConfig(kind="sgd", weight_decay=0.1)}, "weight_decay 0.1.*set them to sgd and 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SparseMemoryDecorrelatedConfig(**fields)


def test_missing_reads_are_refused():
    model = tiny_model()
    for background, what in ((random_background(model), "reads"), (None, "counts")):
        inputs = LearningInputs(background=background, seed=0, statements=random_statements)
        with pytest.raises(ValueError, match=f"needs background {what}.*run pipelines/count_accesses.py"):
            config_of().build(model, inputs)


def test_reads_of_another_checkpoint_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="reads are of 162 slots and the model has 81.*count_accesses"):
        learner(model, config_of(), reads=background_reads(tiny_model(MEMORIES["two layers, separate values"])))


def test_more_rows_than_the_reads_cover_are_refused():
    model = tiny_model()
    reads = background_reads(model, num_batches=1)
    few = replace(reads, slots=reads.slots[:1], weights=reads.weights[:1], num_tokens=1, sensitivities=None)
    covered = len(few.slots.unique())
    assert learner(model, config_of(covered), reads=few)
    with pytest.raises(
        ValueError, match=rf"is {covered + 1}, and the .* of 1 tokens cover {covered} slots.*raise coun"
    ):
        learner(model, config_of(covered + 1), reads=few)


def test_more_rows_than_the_pool_has_are_refused():
    with pytest.raises(ValueError, match="num_trainable_slots is 82, more than the pool's 81 slots"):
        learner(tiny_model(), config_of(82))


def test_a_text_that_is_no_statement_of_the_fact_is_refused():
    trained = learner(tiny_model(), config_of())
    with pytest.raises(ValueError, match="fact 'fact 0' holds a text that is not among its statements"):
        finetune_step(trained, [random_batch(1)._replace(fact_id="fact 0")])


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, ""),
        ({"halved_at_tokens": 400.0}, ""),
        ({"num_trainable_slots": 500}, "_500"),
        ({"num_trainable_slots": 500, "ranking": "tfidf"}, "_500_tfidf"),
        ({"continual": 0.1}, "_continual"),
        ({"num_trainable_slots": 9, "owned_rows": True}, "_9_owned"),
        ({"background": "corpus_without_tested"}, "_against_corpus_without_tested"),
    ],
)
def test_variants_are_methods_of_their_own(fields, label):
    assert SparseMemoryDecorrelatedConfig(**fields).label == f"sparse_memory_decorrelated{label}"
