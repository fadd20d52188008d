"""A reader's recordings equal its computations, and recorded inputs are not computed again."""

import pytest
import torch

from memlm.data.corpus.packing import document_positions
from memlm.model.reader import Reader, Recording
from memlm.model.reader.recording import input_key
from memlm.model.reader.trunk import run_trunk
from tests.support.tiny import EOS, MEMORIES, PAD, random_batch, tiny_model

every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
DECODING = {"max_new_tokens": 3, "end_ids": [EOS], "pad_id": PAD}


def inputs():
    """Tokens alone, tokens with positions, and prompts."""
    plain, packed, prompts = (random_batch(seed).tokens for seed in range(3))
    return plain, packed, document_positions(packed, eos_id=EOS), prompts


@torch.no_grad()
def read_all(reader):
    plain, packed, positions, prompts = inputs()
    return [reader.logits(plain), reader.logits(packed, positions), reader.continue_greedily(prompts, **DECODING)]


def recorded_by(model):
    reader = Reader(model)
    with reader.recording() as recording:
        read_all(reader)
    return recording


def find(recording, tokens, positions=None, **options):
    return recording.find(input_key(tokens, positions), **options)


def tensors(trunk):
    found = [trunk.residual, trunk.slots, trunk.weights, *(each for pair in trunk.keys_values for each in pair)]
    return [*found, trunk.position_ids] if trunk.position_ids is not None else found


def num_bytes(recording):
    return recording.pack().data.nbytes


@every_memory
def test_recording_changes_no_result(memory):
    model = tiny_model(memory)
    reader = Reader(model)
    with reader.recording():
        recorded, again = read_all(reader), read_all(reader)
    plain = read_all(Reader(model))
    assert all(map(torch.equal, recorded, plain)) and all(map(torch.equal, again, plain))


@every_memory
def test_packing_and_unpacking_keeps_every_bit(memory):
    model = tiny_model(memory)
    packed = recorded_by(model).pack()
    packed.data.flags.writeable = False
    recording = Recording.unpack([Recording().pack(), packed])
    plain, with_positions, positions, prompts = inputs()
    for tokens, position_ids, keep in ((plain, None, False), (with_positions, positions, False), (prompts, None, True)):
        found = find(recording, tokens, position_ids, keys_values=keep)
        expected = run_trunk(model, tokens, position_ids, keep_keys_values=keep)
        assert found.slots.dtype == torch.int64 and len(tensors(found)) == len(tensors(expected))
        assert all(map(torch.equal, tensors(found), tensors(expected)))
    assert all(map(torch.equal, read_all(Reader(model, recording=recording)), read_all(Reader(model))))


def test_an_input_is_found_by_tokens_shape_and_positions():
    recording = recorded_by(tiny_model())
    plain, packed, positions, prompts = inputs()
    assert find(recording, plain) and find(recording, packed, positions) and find(recording, prompts, keys_values=True)
    assert find(recording, plain, keys_values=True) is None  # recorded without them
    assert find(recording, packed) is None and find(recording, plain, positions) is None
    assert find(recording, plain.view(2, -1)) is None
    other = plain.clone()
    other[-1, -1] += 1
    assert find(recording, other) is None


def test_recorded_inputs_are_not_computed_again():
    """Read with the recording of another model, it shows."""
    model, tokens = tiny_model(), inputs()[0]
    reader = Reader(model, recording=recorded_by(tiny_model(seed=1)))
    assert not torch.equal(reader.logits(tokens), Reader(model).logits(tokens))
    unknown = random_batch(7).tokens
    assert torch.equal(reader.logits(unknown), Reader(model).logits(unknown))


def test_a_text_recorded_without_keys_and_values_is_recorded_again_for_decoding():
    model, prompts = tiny_model(), inputs()[-1]
    reader = Reader(model)
    with reader.recording() as recording:
        reader.record(prompts)
        without = num_bytes(recording)
        written = reader.continue_greedily(prompts, **DECODING)
    assert find(recording, prompts, keys_values=True) and num_bytes(recording) > without
    again = Reader(model)
    with again.recording() as once:
        again.continue_greedily(prompts, **DECODING)
        again.record(prompts)
    assert num_bytes(once) == num_bytes(recording)
    assert torch.equal(Reader(model, recording=recording).continue_greedily(prompts, **DECODING), written)


def test_the_byte_limit_keeps_the_first_inputs():
    batches = [random_batch(seed).tokens for seed in range(5)]

    def kept_within(max_bytes):
        reader = Reader(tiny_model())
        with reader.recording(max_bytes=max_bytes) as recording:
            for tokens in batches:
                reader.record(tokens)
        return recording

    size = num_bytes(kept_within(1 << 30)) // 5
    for room, kept in ((0, 0), (size - 1, 0), (size, 1), (3 * size + 1, 3), (9 * size, 5)):
        recording = kept_within(room)
        assert [find(recording, tokens) is not None for tokens in batches] == [number < kept for number in range(5)]
        assert num_bytes(recording) == kept * size <= room


def test_recording_stops_at_the_first_input_that_does_not_fit():
    """A later one that would fit is not kept: what is known does not depend on small remainders."""
    model, (long, short) = tiny_model(), (random_batch(0).tokens, random_batch(1, lengths=(2,)).tokens)
    reader = Reader(model)
    with reader.recording(max_bytes=600) as recording:
        reader.record(long), reader.record(short)
    assert recording.is_full and find(recording, long) is None and find(recording, short) is None
    with reader.recording(max_bytes=600) as recording:
        reader.record(short)
    assert find(recording, short)


def test_a_repeated_input_is_recorded_once_and_only_within_the_block():
    model, tokens = tiny_model(), inputs()[0]
    reader = Reader(model)
    with reader.recording() as recording:
        reader.logits(tokens)
        once = num_bytes(recording)
        reader.logits(tokens)
    reader.logits(random_batch(7).tokens)
    assert num_bytes(recording) == once > 0


def test_a_model_without_memory_is_read_without_a_recording():
    model, tokens = tiny_model(dense=True), inputs()[0]
    reader = Reader(model)
    with reader.recording(max_bytes=0):
        assert torch.equal(reader.logits(tokens), model(input_ids=tokens, use_cache=False).logits)
