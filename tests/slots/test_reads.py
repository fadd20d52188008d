import pytest
import torch

from memlm.model.kernels import native, reference
from memlm.slots.accesses import reads_of
from memlm.slots.reads import BackgroundReads
from tests.support.tiny import MEMORIES, MEMORY, TWO_SEPARATE, TWO_SHARED, num_slots, random_batch, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


def reads_in_batch(model, batch) -> BackgroundReads:
    slots, weights = reads_of(model, input_ids=batch.tokens)
    return BackgroundReads.of_batch(slots, weights, batch.is_token, num_slots=num_slots(model))


def plain_moment(model, batches) -> torch.Tensor:
    """The sum over layers of E[w w'], token by token, with a dense w."""
    moment, num_tokens = torch.zeros(num_slots(model), num_slots(model), dtype=torch.float64), 0
    for batch in batches:
        slots, weights = reads_of(model, input_ids=batch.tokens)
        for token_slots, token_weights in zip(slots[batch.is_token], weights[batch.is_token], strict=True):
            num_tokens += 1
            for layer_slots, layer_weights in zip(token_slots.tolist(), token_weights.tolist(), strict=True):
                dense = torch.zeros(len(moment), dtype=torch.float64)
                for slot, weight in zip(layer_slots, layer_weights, strict=True):
                    dense[slot] += weight
                moment += dense[:, None] * dense
    return moment / num_tokens


@every_memory
def test_the_second_moment_is_the_plain_one(memory):
    model = tiny_model(memory)
    batches = [random_batch(seed) for seed in range(6)]
    reads = sum((reads_in_batch(model, batch) for batch in batches[1:]), start=reads_in_batch(model, batches[0]))
    expected = plain_moment(model, batches)
    whole = torch.arange(num_slots(model))
    torch.testing.assert_close(reads.second_moment(whole), expected, rtol=1e-6, atol=1e-12)
    some = torch.tensor([70, 3, 12, 44])
    torch.testing.assert_close(reads.second_moment(some), expected[some][:, some], rtol=1e-6, atol=1e-12)
    assert reads.num_tokens == 6 * 21 and reads.second_moment(whole[:0]).shape == (0, 0)


def test_weights_of_two_heads_on_one_slot_are_added_first():
    reads = BackgroundReads(
        slots=torch.tensor([[4, 1, 4], [1, 0, 2]], dtype=torch.int32),
        weights=torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.5, 0.25]]),
        num_tokens=2,
        num_slots=6,
    )
    moment = reads.second_moment(torch.tensor([4, 1]))
    assert moment.tolist() == [[0.75**2 / 2, 0.75 * 0.25 / 2], [0.75 * 0.25 / 2, (0.25**2 + 1) / 2]]
    assert reads.mean_square == pytest.approx((0.75**2 + 0.25**2 + 1 + 0.5**2 + 0.25**2) / 5)


def test_layers_add_up_in_a_shared_pool_and_do_not_mix_in_separate_ones():
    batch = random_batch(0)
    for memory in (TWO_SHARED, TWO_SEPARATE):
        model = tiny_model(memory)
        moment = reads_in_batch(model, batch).second_moment(torch.arange(num_slots(model)))
        layers = [reads[batch.is_token] for reads in reads_of(model, input_ids=batch.tokens)]
        alone = []
        for layer in range(2):
            slots, weights = (reads[:, layer : layer + 1] for reads in layers)
            tokens = torch.ones(len(slots), 1, dtype=torch.bool)
            one = BackgroundReads.of_batch(slots[:, None], weights[:, None], tokens, num_slots=num_slots(model))
            alone.append(one.second_moment(torch.arange(num_slots(model))))
        torch.testing.assert_close(moment, alone[0] + alone[1])
    assert not moment[:81, 81:].any() and moment[:81, :81].any() and moment[81:, 81:].any()


def test_pads_read_nothing():
    model, batch, longer = tiny_model(), random_batch(0), random_batch(0, seq=13)
    one, other = reads_in_batch(model, batch), reads_in_batch(model, longer)
    assert one.num_tokens == other.num_tokens == 21 and torch.equal(one.slots, other.slots)
    torch.testing.assert_close(one.weights, other.weights)


def test_reads_stack_in_order_and_survive_saving(tmp_path):
    model = tiny_model()
    parts = [reads_in_batch(model, random_batch(seed)) for seed in range(3)]
    whole = parts[0] + parts[1] + parts[2]
    assert torch.equal(whole.slots, torch.cat([part.slots for part in parts])) and whole.num_tokens == 63
    whole.save(tmp_path / "reads.safetensors")
    loaded = BackgroundReads.load(tmp_path / "reads.safetensors")
    assert torch.equal(loaded.slots, whole.slots) and torch.equal(loaded.weights, whole.weights)
    assert (loaded.num_tokens, loaded.num_slots) == (63, 81)
    assert loaded.slots.dtype == torch.int32 and loaded.weights.dtype == torch.float32


def test_reads_of_different_models_do_not_stack():
    with pytest.raises(ValueError, match="different models"):
        reads_in_batch(tiny_model(), random_batch(0)) + reads_in_batch(tiny_model(TWO_SEPARATE), random_batch(0))


@pytest.mark.parametrize("kernels", [reference, native])
def test_nothing_read_has_a_moment_of_zero(kernels):
    empty = torch.zeros(0, dtype=torch.int32), torch.zeros(0), torch.zeros(4, dtype=torch.int64)
    assert kernels.second_moment(*empty, 5).tolist() == [[0.0] * 3] * 3
    assert kernels.second_moment(*empty[:2], torch.zeros(1, dtype=torch.int64), 0).shape == (0, 0)
    reads = BackgroundReads(
        slots=torch.zeros(0, 6, dtype=torch.int32), weights=torch.zeros(0, 6), num_tokens=0, num_slots=9
    )
    assert not reads.second_moment(torch.arange(9)).any() and reads.mean_square == 0


def test_the_moment_does_not_depend_on_how_few_pairs_are_made_at_once(monkeypatch):
    model = tiny_model(MEMORY)
    reads = reads_in_batch(model, random_batch(0)).by_slot
    columns = reads.columns(torch.arange(40))
    expected = reference.second_moment(*columns, reads.num_rows)
    for pairs in (1, 2, 7, 50):
        monkeypatch.setattr(reference, "GATHERED_BYTES", 8 * pairs)
        torch.testing.assert_close(reference.second_moment(*columns, reads.num_rows), expected, rtol=1e-12, atol=0)
