import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memlm.data.tokenizer import train_tokenizer
from memlm.evaluation.vocabulary import ends_of, num_bytes_of, unigram_nats


def test_bytes_of_a_byte_level_tokenizers_tokens_are_those_of_the_text():
    texts = ["Zürich and Genève, 12 °C", "東京 and naïve 🙂 text", "plain words"]
    tokenizer = train_tokenizer(texts * 20, vocab_size=330)
    sizes = num_bytes_of(tokenizer)
    assert len(sizes) == len(tokenizer)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert int(sizes[ids].sum()) == len(text.encode())
    assert {int(sizes[id]) for id in tokenizer.all_special_ids} == {0}


def test_bytes_of_a_sentencepiece_tokenizers_tokens():
    pieces = ["<unk>", "</s>", "<0xC3>", "<0xBC>", "▁the", "▁", "é"]
    plain = Tokenizer(models.BPE(dict(zip(pieces, range(7), strict=True)), [], unk_token="<unk>", byte_fallback=True))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", eos_token="</s>")
    assert num_bytes_of(tokenizer).tolist() == [0, 0, 1, 1, 4, 1, 2]


def test_ends_are_the_end_of_text_and_tokens_with_a_newline():
    tokenizer = train_tokenizer(["one\n\n\ntwo\n three\n"] * 20, vocab_size=300)
    is_end = ends_of(tokenizer)
    assert is_end[tokenizer.eos_token_id] and not is_end[tokenizer.pad_token_id]
    ids = tokenizer("one\n\n\ntwo\n three")["input_ids"]
    texts = [tokenizer.decode([id]) for id in ids]
    assert [bool(is_end[id]) for id in ids] == ["\n" in text for text in texts]
    assert "\n\n" in texts and sum("\n" in text for text in texts) == 3


def test_the_unigram_model_counts_each_token_once_more_than_the_text_and_no_pads():
    eos, pad = 4, 5
    blocks = torch.tensor([[1, 1, 2, eos], [1, pad, pad, pad]], dtype=torch.int32)
    nats = unigram_nats(blocks, vocab_size=6, eos_id=eos, pad_id=pad)
    assert nats.exp().reciprocal().tolist() == pytest.approx([each / 11 for each in (1, 4, 2, 1, 2, 1)])
    assert torch.equal(nats, unigram_nats(blocks.flip(0).long(), vocab_size=6, eos_id=eos, pad_id=pad))
