from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memlm.data.tokenizer import train_tokenizer
from memlm.evaluation.vocabulary import num_bytes_of


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
