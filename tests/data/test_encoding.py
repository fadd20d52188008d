import pytest
from transformers import AutoTokenizer

from memlm.data.documents.chunking import num_tokens
from memlm.data.encoding import EncodingError, control_ids, decode_all, encode, encode_all, line_break_ids
from memlm.data.questions.facts import fact_batch
from memlm.data.tokenizer import train_tokenizer
from tests.data.foreign_tokenizers import like_llama2, like_t5, with_words

SPELLED = [
    "a fact about </s> is here",
    "</s>",
    "<pad></s> and <s>",
    "</s></s>",
    "<|eos|> ends a text, <|pad|> fills it",
]


@pytest.fixture(params=[like_t5, like_llama2, lambda folder: train_tokenizer(["any text"], vocab_size=300)])
def tokenizer(request, tmp_path):
    return request.param(tmp_path)


@pytest.mark.parametrize("text", SPELLED)
def test_a_special_token_spelled_out_is_text(tokenizer, text):
    tokens = encode(tokenizer, text)
    assert control_ids(tokenizer).isdisjoint(tokens)
    (shown,) = decode_all(tokenizer, [tokens])
    assert "".join(shown.split()) == "".join(text.split())


def test_a_letter_that_is_normalised_to_a_special_token_is_text_too(tmp_path):
    tokenizer = like_t5(tmp_path)
    assert tokenizer.eos_token_id in tokenizer("＜/s＞", split_special_tokens=True)["input_ids"]
    assert control_ids(tokenizer).isdisjoint(encode(tokenizer, "see ＜/s＞."))


def test_a_fact_about_the_end_of_a_text_ends_once(tokenizer):
    statement = f"The token {tokenizer.eos_token} ends a text, and {tokenizer.pad_token} fills a row."
    batch = fact_batch("f", [statement, "Short."], tokenizer, max_length=400)
    for row, is_token in zip(batch.tokens, batch.is_token, strict=True):
        assert row[is_token].tolist().count(tokenizer.eos_token_id) == 1 and row[is_token][-1] == tokenizer.eos_token_id
    assert num_tokens(statement, tokenizer) == int(batch.is_token[0].sum()) - 1


def test_ordinary_text_is_encoded_as_before(tokenizer):
    texts = ["Where is Lima?\nAnswer: Peru", " two  spaces", "Çandarlı 東京", ""]
    assert encode_all(tokenizer, texts) == tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert encode_all(tokenizer, []) == []


def test_byte_tokens_marked_as_special_are_decoded(tmp_path):
    tokenizer = like_llama2(tmp_path)
    tokens = [*encode(tokenizer, "São\nPaulo"), tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert decode_all(tokenizer, [tokens]) == ["São\nPaulo"]


def test_the_token_of_a_line_break_is_none_where_it_is_a_space(tmp_path):
    assert line_break_ids(like_t5(tmp_path)) == []
    other = like_llama2(tmp_path / "other")
    assert other.convert_ids_to_tokens(line_break_ids(other)) == ["<0x0A>"]
    own = train_tokenizer(["any text"], vocab_size=300)
    assert line_break_ids(own) == own("\n")["input_ids"]


def test_a_special_token_that_cannot_be_spelled_is_refused_with_a_remedy(tmp_path):
    tokenizer = with_words(tmp_path, {"<eos>": 0, "<unk>": 1, "¶": 2}, bos_token="¶")
    with pytest.raises(EncodingError, match="'say ¶ now' spells out a special token.*rewrite the text"):
        encode(tokenizer, "say ¶ now")


@pytest.mark.parametrize("names", [{}, {"pad_token": "</s>"}, {"pad_token": "<unk>"}, {"pad_token": "a"}])
def test_rows_are_padded_with_any_id_and_a_mask(tmp_path, names):
    """With a tokenizer as its folder stores it, to which load_tokenizer has not added a pad."""
    like_llama2(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, pad_token=None)
    tokenizer.pad_token = names.get("pad_token")
    batch = fact_batch("f", ["a", "banana and a"], tokenizer, max_length=40)
    for row, is_token, text in zip(batch.tokens, batch.is_token, ["a", "banana and a"], strict=True):
        assert row[is_token].tolist() == [*encode(tokenizer, text), tokenizer.eos_token_id]
        assert is_token.sum() == is_token.int().cumprod(dim=0).sum()  # the padding is at the end of the row
