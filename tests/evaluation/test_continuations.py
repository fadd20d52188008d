import pytest
import torch

from memlm.evaluation import continuations
from memlm.evaluation.continuations import Continuation, continuation_nats, encode
from memlm.model.reader import Reader
from tests.support.asking import WORDS, new_model, new_tokenizer

PAIRS = [
    Continuation(f"Where is the {' '.join(WORDS[: i + 1])}?", f" the {' '.join(WORDS[i : i + j + 1])}")
    for i in range(5)
    for j in range(4)
]


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return new_model(tokenizer)


def plain_nats(model, tokenizer, pair):
    """One token at a time, from the definition: the chain rule over the continuation's tokens."""
    before = tokenizer(pair.before)["input_ids"]
    tokens = tokenizer(pair.before + pair.text)["input_ids"]
    total = 0.0
    for place in range(len(before), len(tokens)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens[:place]]), use_cache=False).logits
        total -= float(logits[0, -1].double().log_softmax(dim=-1)[tokens[place]])
    return total, len(tokens) - len(before)


@pytest.mark.parametrize("dense", [False, True], ids=["memory", "dense"])
def test_nats_follow_the_chain_rule(tokenizer, dense):
    model = new_model(tokenizer, dense=dense)
    for pair, found in zip(PAIRS, continuation_nats(Reader(model, tokenizer), PAIRS, batch_size=6), strict=True):
        nats, num_tokens = plain_nats(model, tokenizer, pair)
        assert found.nats == pytest.approx(nats, rel=1e-4)
        assert found.num_tokens == num_tokens


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_and_their_pads_change_nothing(model, tokenizer, batch_size):
    expected = continuation_nats(Reader(model, tokenizer), PAIRS, batch_size=1)
    lengths = {len(tokenizer(pair.before + pair.text)["input_ids"]) for pair in PAIRS}
    assert len(lengths) > 5  # so there are pads
    found = continuation_nats(Reader(model, tokenizer), PAIRS, batch_size=batch_size)
    assert [each.nats for each in found] == pytest.approx([each.nats for each in expected], rel=1e-4)
    assert found == continuation_nats(Reader(model, tokenizer), PAIRS, batch_size=batch_size)


def test_batches_are_bounded_by_their_logits(model, tokenizer, monkeypatch):
    longest = max(len(tokenizer(pair.before + pair.text)["input_ids"]) for pair in PAIRS)
    monkeypatch.setattr(continuations, "MAX_LOGITS", 2 * longest * len(tokenizer))
    read = []
    with model.register_forward_pre_hook(lambda _, args, inputs: read.append(inputs["input_ids"]), with_kwargs=True):
        continuation_nats(Reader(model, tokenizer), PAIRS, batch_size=100)
    assert len(read) > 3
    assert all(tokens.numel() * len(tokenizer) <= continuations.MAX_LOGITS for tokens in read)
    assert sum(map(len, read)) == len(PAIRS)


def test_a_text_longer_than_the_window_is_cut_at_the_left(tokenizer):
    pair = PAIRS[-1]
    tokens = tokenizer(pair.before + pair.text)["input_ids"]
    num_own = len(tokens) - len(tokenizer(pair.before)["input_ids"])
    for window, num_scored in ((num_own + 2, num_own), (num_own, num_own - 1), (2, 1)):
        model = new_model(tokenizer, max_positions=window)
        (found,) = continuation_nats(Reader(model, tokenizer), [pair], batch_size=1)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens[-window:]]), use_cache=False).logits[0, :-1]
        nats = -logits.log_softmax(dim=-1).gather(1, torch.tensor(tokens[-window:][1:])[:, None])[:, 0]
        assert found.num_tokens == num_scored
        assert found.nats == pytest.approx(float(nats[-num_scored:].sum()), rel=1e-4)


def test_a_continuation_without_a_token_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="no token to score"):
        continuation_nats(Reader(model, tokenizer), [Continuation("Where?", "")], batch_size=1)


def test_recording_changes_nothing(model, tokenizer):
    reader = Reader(model, tokenizer)
    with reader.recording() as recording:
        recorded = continuation_nats(reader, PAIRS, batch_size=6)
    plain = continuation_nats(Reader(model, tokenizer), PAIRS, batch_size=6)
    assert recorded == plain == continuation_nats(Reader(model, tokenizer, recording), PAIRS, batch_size=6)


def test_a_token_across_the_seam_belongs_to_the_continuation(tokenizer):
    """Cut inside a token, the text before ends in tokens that the whole does not have."""
    text = " ".join(WORDS[:3])
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    inside = 0
    for cut in range(1, len(text)):
        ((tokens, start),) = encode(tokenizer, [Continuation(text[:cut], text[cut:])], 64)
        alone = tokenizer(text[:cut], add_special_tokens=False)["input_ids"]
        assert tokens == whole and start <= max(1, len(alone))
        assert start == 1 or tokens[:start] == alone[:start]
        inside += 1 < start < len(alone)
    assert inside, "no cut fell inside a token behind the first; the test shows nothing"
