import pytest
import torch

from memlm.data.corpus.packing import document_positions
from memlm.model.reader.trunk import run_trunk
from memlm.model.reader.trunk_cache import NO_TRUNKS, TrunkCache, TrunkInput
from tests.support.tiny import EOS, MEMORIES, random_batch, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
PLENTY = 1 << 30


def inputs():
    batches = [random_batch(seed).tokens for seed in range(3)]
    return [
        TrunkInput(batches[0]),
        TrunkInput(batches[1], document_positions(batches[1], eos_id=EOS)),
        TrunkInput(batches[2], keep_keys_values=True),
    ]


def build(model, wanted, max_bytes=PLENTY):
    return TrunkCache.build(model, wanted, max_bytes=max_bytes)


def tensors(trunk):
    found = [trunk.residual, trunk.slots, trunk.weights, *(each for pair in trunk.keys_values for each in pair)]
    return [*found, trunk.position_ids] if trunk.position_ids is not None else found


@every_memory
def test_what_is_packed_comes_out_to_the_bit(memory):
    model, wanted = tiny_model(memory), inputs()
    packed = [build(model, wanted[:2]).pack(), build(model, wanted[2:]).pack()]
    for part in packed:
        part.data.flags.writeable = False
    cache = TrunkCache.of(packed)
    for tokens, positions, keep in wanted:
        found = cache.find(tokens, positions, keys_values=keep)
        expected = run_trunk(model, tokens, positions, keep_keys_values=keep)
        assert found.slots.dtype == torch.int64 and len(tensors(found)) == len(tensors(expected))
        assert all(map(torch.equal, tensors(found), tensors(expected)))
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        assert torch.equal(cache.logits(model, tokens, positions), logits)


def test_a_cache_is_asked_by_tokens_shape_and_positions():
    cache = build(tiny_model(), inputs())
    (plain, _, _), (packed, positions, _), (prompt, _, _) = inputs()
    assert cache.find(plain) and cache.find(packed, positions) and cache.find(prompt, keys_values=True)
    assert cache.find(plain, keys_values=True) is None  # kept without them
    assert cache.find(packed) is None and cache.find(plain, positions) is None
    assert cache.find(plain.view(2, -1)) is None
    other = plain.clone()
    other[-1, -1] += 1
    assert cache.find(other) is None
    assert NO_TRUNKS.find(plain) is None


def test_an_answer_comes_from_the_cache_and_not_from_the_model():
    model, tokens = tiny_model(), random_batch(0).tokens
    of_another = build(tiny_model(seed=1), [TrunkInput(tokens)])
    assert not torch.equal(of_another.logits(model, tokens), model(input_ids=tokens, use_cache=False).logits)
    unknown = random_batch(1).tokens
    assert torch.equal(of_another.logits(model, unknown), model(input_ids=unknown, use_cache=False).logits)


def test_the_bytes_bound_what_is_kept_and_the_first_come_first():
    model = tiny_model()
    wanted = [TrunkInput(random_batch(seed).tokens) for seed in range(5)]
    size = build(model, wanted[:1]).pack().data.nbytes
    for room, kept in ((0, 0), (size - 1, 0), (size, 1), (3 * size + 1, 3), (9 * size, 5)):
        cache = build(model, wanted, max_bytes=room)
        assert [cache.find(tokens) is not None for tokens, _, _ in wanted] == [number < kept for number in range(5)]
        assert cache.pack().data.nbytes == kept * size <= room


def test_what_comes_twice_is_kept_once():
    model, twice = tiny_model(), [TrunkInput(random_batch(0).tokens)] * 2
    assert build(model, twice).pack().data.nbytes == build(model, twice[:1]).pack().data.nbytes
