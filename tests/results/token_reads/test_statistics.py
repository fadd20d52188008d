import numpy as np
import pytest

from memlm.results.token_reads.picture import draw_token_reads
from memlm.results.token_reads.statistics import END, ReadText, ReadToken, summarize


def token(part, trainable, *, place="", nats=1.0, text="x"):
    return ReadToken(
        text=text, part=part, part_of_speech=part, place=place, num_read=10, num_trainable=(trainable,), nats=nats
    )


def text(fact, *tokens, kind="statement"):
    return ReadText(fact=fact, kind=kind, tokens=tokens)


def plain(fact, *, name, other):
    return text(
        fact,
        token("entity", name, place="name, last", nats=None),
        token("template", other),
        token("stop", other, nats=2.0),
        token(END, 0),
    )


def test_shares_by_hand():
    texts = [plain("a", name=8, other=2), plain("a", name=6, other=2), plain("b", name=4, other=0)]
    found = summarize([*texts, text("b", token("value", 1), kind="question")], [100], samples=50)
    assert found["statement"]["num_texts"] == 3 and found["statement"]["num_tokens"] == 12
    parts = found["statement"]["t=100"]["by_part"]
    assert {part: each["share"] for part, each in parts.items()} == pytest.approx(
        {"entity": 0.6, "template": 0.4 / 3, "stop": 0.4 / 3, END: 0.0}
    )
    assert parts["entity"]["num_tokens"] == 3
    assert found["question"]["t=100"]["all"]["share"] == pytest.approx(0.1)
    difference = found["statement"]["t=100"]["differences"]["name - template"]
    assert difference["value"] == pytest.approx(0.6 - 0.4 / 3)
    assert 0.4 - 1e-9 <= difference["ci"][0] < difference["ci"][1] <= 0.5 + 1e-9  # of fact b alone, of a alone


def test_alignment_is_a_probability_with_ties_counting_half():
    def alignment(name, other):
        found = summarize([plain("a", name=name, other=other)], [100], samples=5)["statement"]["t=100"]
        return found["alignment"]["last of name or value"]["value"]

    assert [alignment(8, 2), alignment(2, 8), alignment(5, 5)] == [1.0, 0.0, 0.5]


def test_correlation_with_surprise_is_spearmans():
    rng = np.random.default_rng(1)
    trainable, nats = rng.integers(0, 11, 300), rng.exponential(size=300).round(1)
    texts = [
        text(str(at), *(token("template", int(trainable[at + i]), nats=float(nats[at + i])) for i in range(10)))
        for at in range(0, 300, 10)
    ]
    found = summarize(texts, [100], samples=5)["statement"]["t=100"]["spearman"]["surprise at the token"]

    def ranks(values):
        return np.array([(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values])

    assert found["value"] == pytest.approx(np.corrcoef(ranks(trainable), ranks(nats))[0, 1])
    assert found["ci"][0] < found["value"] < found["ci"][1]


def test_the_next_tokens_surprise_is_paired_with_the_token_before_it():
    texts = [
        text(
            fact,
            *(token("template", share, nats=nats) for share, nats in zip((9, 3, 5, 1), (None, 9, 3, 5), strict=True)),
        )
        for fact in "ab"
    ]
    found = summarize(texts, [100], samples=5)["statement"]["t=100"]["spearman"]
    assert found["surprise at the next token"]["value"] == pytest.approx(1.0)
    assert found["surprise at the token"]["value"] < 0


def test_facts_are_drawn_whole():
    """Many wordings of two facts that differ give a wide interval."""
    texts = [plain(fact, name=name, other=0) for fact, name in (("a", 2), ("b", 8)) for _ in range(50)]
    low, high = summarize(texts, [100])["statement"]["t=100"]["by_part"]["entity"]["ci"]
    assert (low, high) == pytest.approx((0.2, 0.8))


def test_the_picture_is_drawn(tmp_path):
    shown = [text("a", token("entity", 8, text="Ana"), token("stop", 0, text="\n"), token(END, 1, text="<|eos|>"))]
    draw_token_reads(shown, [100], tmp_path / "reads.png", title="Reads")
    assert (tmp_path / "reads.png").stat().st_size > 2000
