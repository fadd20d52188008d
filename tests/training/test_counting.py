from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from memlm.data.corpus.blocks import Blocks, batch_ids, write_blocks
from memlm.data.corpus.packing import pack
from memlm.slots.counts import BackgroundCounter, BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.training import counting
from memlm.training.config import CountingConfig
from memlm.training.counting import count_unit, counted_blocks, read_unit
from memlm.training.units import num_batches, read_units, units
from tests.support.tiny import EOS, MEMORIES, PAD, num_slots, read_slots, tiny_model

NUM_BLOCKS, BLOCK_SIZE = 7, 6
CONFIG = CountingConfig(num_batches=100, batch_blocks=2, batches_per_unit=3, seed=5)

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


@pytest.fixture
def blocks(tmp_path) -> Blocks:
    """Seven blocks of six tokens; no document ends within a block, and the last block is padded."""
    random = np.random.default_rng(0)
    document = random.integers(0, EOS, NUM_BLOCKS * BLOCK_SIZE - 3)
    write_blocks(str(tmp_path / "b.parquet"), pack([document], block_size=BLOCK_SIZE, eos_id=EOS, pad_id=PAD))
    return Blocks([str(tmp_path / "b.parquet")])


def count(model, blocks: Blocks, config: CountingConfig, batches: range) -> BackgroundCounts:
    return count_unit(model, blocks, batches, config, eos_id=EOS, pad_id=PAD)


def count_all(model, blocks: Blocks, config: CountingConfig) -> BackgroundCounts:
    parts = [count(model, blocks, config, unit) for unit in units(config, len(blocks))]
    return sum(parts[1:], start=parts[0])


def assert_equal(first: BackgroundCounts, second: BackgroundCounts) -> None:
    for field in fields(BackgroundCounts):
        assert torch.equal(torch.as_tensor(getattr(first, field.name)), torch.as_tensor(getattr(second, field.name)))


@pytest.mark.parametrize("num_blocks", [1, 2, 7, 40])
@pytest.mark.parametrize("wanted", [1, 4, 1000])
@pytest.mark.parametrize("batch_blocks", [1, 2, 16])
@pytest.mark.parametrize("per_unit", [1, 3, 50])
def test_units_cover_every_micro_batch_once(num_blocks, wanted, batch_blocks, per_unit):
    config = CountingConfig(num_batches=wanted, batch_blocks=batch_blocks, batches_per_unit=per_unit)
    total = num_batches(config, num_blocks)
    assert total == min(wanted, -(-num_blocks // batch_blocks))
    planned = units(config, num_blocks)
    assert [number for unit in planned for number in unit] == list(range(total))
    assert all(len(unit) == per_unit for unit in planned[:-1]) and 0 < len(planned[-1]) <= per_unit


@pytest.mark.parametrize("wanted", [1, 3, 100])
@pytest.mark.parametrize("batch_blocks", [1, 2, 3, 16])
def test_counted_blocks_are_those_of_the_micro_batches_in_their_order(blocks, wanted, batch_blocks, monkeypatch):
    config = replace(CONFIG, num_batches=wanted, batch_blocks=batch_blocks)
    read = []

    def accesses_of(model, *, input_ids, position_ids):
        read.append(input_ids)
        return torch.zeros(*input_ids.shape, 1, dtype=torch.long)

    monkeypatch.setattr(counting, "accesses_of", accesses_of)
    count(tiny_model(), blocks, config, range(num_batches(config, NUM_BLOCKS)))
    found = counted_blocks(blocks, config)
    assert found.dtype == torch.int32 and len(found) == min(wanted * batch_blocks, NUM_BLOCKS)
    assert torch.equal(found.long(), torch.cat(read)[: len(found)])


def plain_counts(model, blocks: Blocks, config: CountingConfig) -> BackgroundCounts:
    """Counts by the definition, one token at a time. Every block is read once, since there are
    fewer than asked for."""
    total = [Counter(), Counter(), Counter()]
    num_tokens = 0
    for number in range(-(-NUM_BLOCKS // config.batch_blocks)):
        first = number * config.batch_blocks
        ids = batch_ids(seed=config.seed, step=0, batch_size=NUM_BLOCKS, num_blocks=NUM_BLOCKS)
        in_batch: set[int] = set()
        for tokens in blocks.take(ids[first : first + config.batch_blocks]):
            in_sequence: set[int] = set()
            for token, slots in zip(tokens.tolist(), read_slots(model, tokens[None])[0].tolist(), strict=True):
                if token != PAD:
                    num_tokens += 1
                    total[2].update(slots)
                    in_sequence.update(slots)
            total[1].update(in_sequence)
            in_batch |= in_sequence
        total[0].update(in_batch)
    vectors = [torch.tensor([counter[slot] for slot in range(num_slots(model))]) for counter in total]
    return BackgroundCounts(
        batch_frequency=vectors[0],
        sequence_frequency=vectors[1],
        accesses=vectors[2],
        num_batches=-(-NUM_BLOCKS // config.batch_blocks),
        num_sequences=NUM_BLOCKS,
        num_tokens=num_tokens,
    )


@every_memory
@pytest.mark.parametrize("batch_blocks", [1, 2, 3, 16])
def test_counts_are_those_of_the_definition(blocks, memory, batch_blocks):
    model, config = tiny_model(memory), replace(CONFIG, batch_blocks=batch_blocks)
    counted = count_all(model, blocks, config)
    assert_equal(counted, plain_counts(model, blocks, config))
    assert counted.num_tokens == NUM_BLOCKS * BLOCK_SIZE - 2  # two pads


@every_memory
def test_counts_do_not_depend_on_the_units_or_their_order(blocks, memory):
    model = tiny_model(memory)
    expected = count_all(model, blocks, CONFIG)
    for per_unit in (1, 2, 4, 50):
        assert_equal(count_all(model, blocks, replace(CONFIG, batches_per_unit=per_unit)), expected)
    backwards = [count(model, blocks, CONFIG, range(number, number + 1)) for number in reversed(range(4))]
    assert_equal(sum(backwards[1:], start=backwards[0]), expected)


def read_all(model, blocks: Blocks, config: CountingConfig) -> BackgroundReads:
    found = [
        read_unit(model, blocks, unit, config, eos_id=EOS, pad_id=PAD)
        for unit in read_units(config, len(blocks), BLOCK_SIZE)
    ]
    return sum(found[1:], start=found[0])


@every_memory
def test_reads_and_sensitivities_do_not_depend_on_the_units(blocks, memory):
    model = tiny_model(memory)
    expected = read_all(model, blocks, CONFIG)
    assert expected.num_tokens == NUM_BLOCKS * BLOCK_SIZE - 2
    assert len(expected.sensitivities.of_rows) == len(expected.slots) == expected.num_tokens * len(memory.layers)
    for per_unit in (1, 2, 50):
        found = read_all(model, blocks, replace(CONFIG, batches_per_unit=per_unit))
        assert torch.equal(found.slots, expected.slots) and torch.equal(found.weights, expected.weights)
        assert torch.equal(found.sensitivities.of_rows, expected.sensitivities.of_rows)
        torch.testing.assert_close(
            found.sensitivities.of_outputs, expected.sensitivities.of_outputs, rtol=1e-12, atol=1e-15
        )


@every_memory
def test_reads_without_sensitivities_are_the_same_reads(blocks, memory):
    model, batches = tiny_model(memory), range(3)
    with_them, without = (
        read_unit(model, blocks, batches, replace(CONFIG, sensitivities=measured), eos_id=EOS, pad_id=PAD)
        for measured in (True, False)
    )
    assert with_them.sensitivities is not None and without.sensitivities is None
    assert torch.equal(with_them.slots, without.slots) and torch.equal(with_them.weights, without.weights)
    assert with_them.num_tokens == without.num_tokens


def test_labels_are_drawn_anew_for_each_micro_batch_and_seed():
    drawn = [counting._draws(seed, number, (4, 50)) for seed, number in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert torch.equal(drawn[0], drawn[3]) and not any(torch.equal(drawn[0], other) for other in drawn[1:3])
    together = torch.cat(drawn[:3])
    assert together.min() >= 0 and together.max() < 1 and abs(together.mean() - 0.5) < 0.05
    # Not the numbers that the order of the blocks follows from.
    order = np.random.Philox(key=[0, 0]).random_raw(200) >> np.uint64(40)
    assert not np.array_equal(order / 2**24, drawn[0].flatten().numpy())


def test_another_seed_draws_other_batches(blocks):
    model, few = tiny_model(), replace(CONFIG, num_batches=1)
    drawn = [count_all(model, blocks, replace(few, seed=seed)).accesses for seed in (0, 1, 2)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])


def shapes_seen(model, blocks: Blocks) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    count_all(model, blocks, CONFIG)
    hook.remove()
    return shapes


def test_every_micro_batch_has_the_same_shape_the_last_one_padded(blocks):
    assert shapes_seen(tiny_model(), blocks) == [(2, BLOCK_SIZE)] * 4


def test_padding_blocks_of_a_micro_batch_are_not_counted(blocks):
    """The last micro-batch has one of its two sequences; the padding in place of the other leaves
    no trace."""
    model = tiny_model()
    last = count(model, blocks, CONFIG, range(3, 4))
    assert (last.num_batches, last.num_sequences) == (1, 1)
    (only,) = batch_ids(seed=5, step=0, batch_size=7, num_blocks=7)[6:]
    tokens = blocks.take([int(only)])
    reads = read_slots(model, tokens)[0][tokens[0] != PAD].flatten()
    assert torch.equal(last.accesses, reads.bincount(minlength=81))


def check_no_pad_is_counted(model, blocks: Blocks) -> None:
    assert int(count_all(model, blocks, CONFIG).accesses.sum()) == (NUM_BLOCKS * BLOCK_SIZE - 2) * 2 * 3


def test_no_pad_is_counted(blocks):
    check_no_pad_is_counted(tiny_model(), blocks)


def test_mutant_that_counts_pads_is_caught(blocks, monkeypatch):
    class CountsAll(BackgroundCounter):
        def add(self, slots, is_token):
            super().add(slots, torch.ones_like(is_token))

    monkeypatch.setattr(counting, "BackgroundCounter", CountsAll)
    with pytest.raises(AssertionError):
        check_no_pad_is_counted(tiny_model(), blocks)


def test_attention_stays_within_documents(tmp_path):
    """A document's accesses are the same alone and behind another in the block."""
    random = np.random.default_rng(1)
    first, second = random.integers(0, EOS, 3), random.integers(0, EOS, 7)
    model, whole = tiny_model(), replace(CONFIG, batch_blocks=1)

    def counted(name: str, *documents) -> BackgroundCounts:
        write_blocks(str(tmp_path / name), pack(documents, block_size=12, eos_id=EOS, pad_id=PAD))
        return count_all(model, Blocks([str(tmp_path / name)]), whole)

    together = counted("together", first, second)
    assert torch.equal(together.accesses, counted("first", first).accesses + counted("second", second).accesses)
    assert together.num_batches == 1


def test_the_forward_pass_stops_at_the_last_search(blocks):
    model, run = tiny_model(), []
    for name, module in (("values", model.model.value_pools[0]), ("above", model.model.layers[2])):
        module.register_forward_hook(lambda *_, name=name: run.append(name))
    model.model.layers[0].register_forward_hook(lambda *_: run.append("below"))
    count_all(model, blocks, CONFIG)
    assert set(run) == {"below"}


def test_ends_of_text_are_counted_if_they_are_also_the_pads(tmp_path):
    """Rows that only fill a batch are not counted."""
    counts = []
    for pad in (PAD, EOS):
        rows = [[3, 4, EOS, 5, 6, 7], [8, 9, EOS, 2, 1, EOS], [8, EOS, pad, pad, pad, pad]]
        path = str(tmp_path / f"{pad}.parquet")
        write_blocks(path, [np.array(row, dtype=np.int32) for row in rows])
        config = CountingConfig(num_batches=2, batch_blocks=2)
        counts.append(count_unit(tiny_model(), Blocks([path]), range(2), config, eos_id=EOS, pad_id=pad))
    assert_equal(*counts)
    assert counts[0].num_tokens == 14
