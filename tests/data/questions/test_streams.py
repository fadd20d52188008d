from dataclasses import replace

import pytest
import torch

from memlm.data.config import DocumentStreamConfig, StreamConfig
from memlm.data.questions.facts import Fact, FactError
from memlm.data.questions.records import Question
from memlm.data.questions.streams import (
    batches_of_stream,
    facts_of_stream,
    num_steps,
    require_asked,
    sample_documents,
    shortfall,
)
from memlm.data.tokenizer import train_tokenizer
from memlm.identity import identity

CHUNKS = [
    Fact(id=f"{document}#{number}", statements=tuple(f"{document} {number} {text}" for text in "vwxyz"), questions=())
    for document in ("a#1", "b", "c")
    for number in range(3)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b c 0 1 2"], vocab_size=270)


def stream(tokenizer, chunks=CHUNKS, **settings):
    seed = settings.pop("seed", 0)
    config = DocumentStreamConfig(**{"num_augmentations": 4, "num_passes": 2, **settings})
    return list(batches_of_stream(config, chunks, tokenizer, seed=seed))


def texts_of(tokenizer, batch) -> list[str]:
    return [tokenizer.decode(row[kept]) for row, kept in zip(batch.tokens, batch.is_token, strict=True)]


def test_each_pass_has_one_chunk_per_step_in_text_order(tokenizer):
    batches = stream(tokenizer)
    assert [batch.fact_id for batch in batches] == [chunk.id for chunk in CHUNKS] * 2


def test_documents_may_be_learned_one_by_one(tokenizer):
    batches = stream(tokenizer, order="one_by_one")
    documents = [CHUNKS[:3], CHUNKS[3:6], CHUNKS[6:]]
    assert [batch.fact_id for batch in batches] == [chunk.id for each in documents for chunk in each * 2]
    first, again = batches[0], batches[3]
    assert not torch.equal(first.tokens, again.tokens), "each pass draws other texts"
    alone = stream(tokenizer, documents[1])
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(batches[6:12], alone, strict=True))
    long = Fact(id="z#0", statements=("a b c " * 50,), questions=())
    with pytest.raises(FactError, match="'z#0'"):
        batches_of_stream(DocumentStreamConfig(order="one_by_one", max_length=64), [*CHUNKS, long], tokenizer, seed=0)


def test_the_order_names_a_stream_only_where_it_is_not_the_usual_one():
    assert "order" not in identity(DocumentStreamConfig())
    assert identity(DocumentStreamConfig(order="one_by_one"))["order"] == "one_by_one"


def test_a_row_is_one_augmentation_and_its_end_with_pads_after_it(tokenizer):
    chunk = Fact(id="d#0", statements=("a", "a much longer one"), questions=())
    (batch,) = stream(tokenizer, [chunk], num_augmentations=2, num_passes=1)
    assert set(texts_of(tokenizer, batch)) == {"a<|eos|>", "a much longer one<|eos|>"}
    assert torch.equal(batch.is_token, batch.tokens != tokenizer.pad_token_id)


def test_a_batch_holds_different_augmentations_and_each_pass_draws_again(tokenizer):
    batches = stream(tokenizer, num_passes=4)
    drawn = [tuple(texts_of(tokenizer, batch)) for batch in batches if batch.fact_id == "b#1"]
    assert all(len(set(texts)) == 4 for texts in drawn) and len(set(drawn)) > 1
    assert all(text.startswith("b 1 ") for texts in drawn for text in texts)
    (batch, *_) = stream(tokenizer, num_augmentations=12)
    assert max(texts_of(tokenizer, batch).count(text) for text in texts_of(tokenizer, batch)) == 3


def test_the_stream_is_a_pure_function_of_its_arguments(tokenizer):
    one, same, other = stream(tokenizer), stream(tokenizer), stream(tokenizer, seed=1)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, same, strict=True))
    assert any(texts_of(tokenizer, a) != texts_of(tokenizer, b) for a, b in zip(one, other, strict=True))


def test_a_text_that_is_too_long_is_refused_before_the_first_step(tokenizer):
    long = Fact(id="z#0", statements=("fits", "a b c " * 50), questions=())
    with pytest.raises(FactError, match="'z#0'.*stream.max_length \\(64\\)"):
        batches_of_stream(DocumentStreamConfig(max_length=64), [*CHUNKS, long], tokenizer, seed=0)


def test_documents_are_drawn_whole():
    drawn = sample_documents(CHUNKS, 2, seed=0)
    assert len(drawn) == 6 and drawn == sample_documents(CHUNKS, 2, seed=0)
    assert all([chunk.id[-1] for chunk in drawn[i : i + 3]] == list("012") for i in (0, 3))
    orders = {tuple(chunk.id for chunk in sample_documents(CHUNKS, 0, seed=seed)) for seed in range(8)}
    assert len(orders) > 1 and all(len(order) == 9 for order in orders)
    assert sample_documents(CHUNKS, 4, seed=0) == sample_documents(CHUNKS, 3, seed=0)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (StreamConfig(num_facts=9), ""),
        (StreamConfig(num_facts=100), "stream.num_facts is 100, but there are only 9: all of them are learned"),
        (DocumentStreamConfig(num_documents=0), ""),
        (DocumentStreamConfig(num_documents=3), ""),
        (
            DocumentStreamConfig(num_documents=4),
            "stream.num_documents is 4, but there are only 3: all of them are learned",
        ),
    ],
)
def test_a_stream_that_asks_for_more_than_there_is_learns_all_and_reports_it(stream, message):
    assert shortfall(stream, CHUNKS) == message
    assert len(facts_of_stream(stream, CHUNKS, seed=0)) == len(CHUNKS)


def test_a_stream_without_questions_is_refused():
    asked = replace(CHUNKS[0], questions=(Question(id="q", question="Who?", answers=("Ada",)),))
    require_asked([*CHUNKS, asked], seed=3)
    with pytest.raises(FactError, match="no question is about the 9 facts or chunks that seed 3 draws"):
        require_asked([replace(chunk, questions=()) for chunk in CHUNKS], seed=3)


def test_both_kinds_of_stream_have_the_same_interface(tokenizer):
    documents = DocumentStreamConfig(num_documents=2, num_augmentations=3, num_passes=2)
    facts = StreamConfig(num_facts=5, num_wordings=3, num_passes=2)
    for config, num_chosen in ((documents, 6), (facts, 5)):
        chosen = facts_of_stream(config, CHUNKS, seed=1)
        batches = list(batches_of_stream(config, chosen, tokenizer, seed=1))
        assert len(chosen) == num_chosen and len(batches) == num_steps(config, CHUNKS, seed=1) == 2 * num_chosen
        assert all(batch.tokens.shape[0] == 3 for batch in batches)
