import numpy as np
import pytest
import torch

from memlm.data.corpus.packing import PackingError, document_positions, is_text, pack

EOS, PAD = 1, 2


def blocks_of(documents, block_size):
    return [block.tolist() for block in pack(documents, block_size=block_size, eos_id=EOS, pad_id=PAD)]


def test_documents_continue_across_blocks_and_only_the_last_block_is_padded():
    assert blocks_of([[10, 11, 12], [], [20], [30, 31, 32, 33, 34, 35]], 4) == [
        [10, 11, 12, EOS],
        [EOS, 20, EOS, 30],
        [31, 32, 33, 34],
        [35, EOS, PAD, PAD],
    ]


def test_a_full_last_block_gets_no_padding_and_nothing_gives_nothing():
    assert blocks_of([[10, 11, 12]], 4) == [[10, 11, 12, EOS]]
    assert blocks_of([], 4) == []


@pytest.mark.parametrize("block_size", [1, 2, 7, 64, 1000])
def test_no_token_is_lost_or_moved(block_size):
    random = np.random.default_rng(0)
    documents = [random.integers(3, 1000, size=random.integers(0, 50)).tolist() for _ in range(40)]
    blocks = list(pack(documents, block_size=block_size, eos_id=EOS, pad_id=PAD))
    assert all(block.dtype == np.int32 and block.shape == (block_size,) for block in blocks)
    row = np.concatenate(blocks)
    expected = np.concatenate([[*document, EOS] for document in documents])
    np.testing.assert_array_equal(row[: len(expected)], expected)
    assert len(row) - len(expected) < block_size and (row[len(expected) :] == PAD).all()


def test_packing_streams():
    """An endless corpus still gives its first block."""

    def endless():
        while True:
            yield [5, 6]

    assert next(pack(endless(), block_size=4, eos_id=EOS, pad_id=PAD)).tolist() == [5, 6, EOS, 5]


def test_given_blocks_are_not_changed_by_later_ones():
    blocks = pack([[5, 5, 5], [6, 6, 6]], block_size=4, eos_id=EOS, pad_id=PAD)
    first = next(blocks)
    next(blocks)
    assert first.tolist() == [5, 5, 5, EOS]


def test_bad_requests_are_refused_at_once():
    with pytest.raises(PackingError, match="block_size is 0"):
        pack([], block_size=0, eos_id=EOS, pad_id=PAD)
    with pytest.raises(PackingError, match="both 1"):
        pack([], block_size=4, eos_id=1, pad_id=1)


def test_positions_restart_after_each_end_of_text():
    tokens = torch.tensor([[7, 8, EOS, 9, EOS, EOS, 4], [EOS, 7, 7, 7, 7, 7, EOS], [7, 7, 7, 7, EOS, PAD, PAD]])
    expected = [[0, 1, 2, 0, 1, 0, 0], [0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 0, 1]]
    assert document_positions(tokens, eos_id=EOS).tolist() == expected
    assert document_positions(tokens.int(), eos_id=EOS).tolist() == expected


@pytest.mark.parametrize(
    ("pad_id", "row", "num_tokens"),
    [
        (PAD, [7, EOS, PAD, PAD], 2),
        (PAD, [7, PAD, 8, EOS], 4),  # the pad's id is also a word
        (PAD, [PAD, PAD, PAD, PAD], 0),
        (PAD, [7, 8, 9, 10], 4),
        (EOS, [7, EOS, EOS, EOS], 2),  # one end of text, and two pads
        (EOS, [7, EOS, 8, EOS], 4),
        (EOS, [EOS, EOS, EOS, EOS], 1),
        (EOS, [EOS, 7, 8, 9], 4),
    ],
)
def test_a_pad_is_recognised_by_its_position_not_its_id(pad_id, row, num_tokens):
    mask = is_text(torch.tensor([row, [7, 7, 7, 7]]), eos_id=EOS, pad_id=pad_id)
    assert mask.tolist() == [[place < num_tokens for place in range(4)], [True] * 4]
