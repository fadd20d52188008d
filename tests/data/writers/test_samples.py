"""Texts that a model writes by itself."""

import pytest
import torch

from memlm.data.corpus.config import SamplesConfig
from memlm.data.writers.samples import sample_texts, start_id
from tests.support.asking import new_model, new_tokenizer

CONFIG = SamplesConfig(max_tokens=10)


@pytest.fixture(scope="module")
def base():
    tokenizer = new_tokenizer()
    return new_model(tokenizer, dense=True), tokenizer


def test_the_seed_and_the_numbers_alone_determine_the_texts(base):
    torch.manual_seed(1)
    first = sample_texts(*base, range(6), CONFIG)
    torch.manual_seed(2)
    assert sample_texts(*base, range(6), CONFIG) == first
    assert len(set(first)) > 3
    assert sample_texts(*base, range(6, 12), CONFIG) != first
    assert sample_texts(*base, range(6), SamplesConfig(max_tokens=10, seed=1)) != first


def test_the_random_numbers_of_others_stay_as_they_were(base):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    sample_texts(*base, range(2), CONFIG)
    assert torch.equal(torch.rand(4), expected)


def test_a_text_has_no_special_tokens_and_at_most_so_many(base):
    model, tokenizer = base
    for text in sample_texts(model, tokenizer, range(20), CONFIG):
        assert not any(special in text for special in tokenizer.all_special_tokens)
        assert len(tokenizer(text)["input_ids"]) <= 3 * 10  # an invalid byte is read again as three


def test_texts_begin_after_what_separates_documents_in_pretraining(base):
    tokenizer = new_tokenizer()
    assert start_id(tokenizer) == tokenizer.bos_token_id
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|endoftext|>"]})
    assert start_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.parametrize(
    ("field", "value"), [("num_texts", 0), ("max_tokens", 0), ("texts_per_unit", 0), ("temperature", 0.0)]
)
def test_settings_that_cannot_work_are_refused(field, value):
    with pytest.raises(ValueError, match=f"corpus.samples.{field} is {value}; it must be"):
        SamplesConfig(**{field: value})
