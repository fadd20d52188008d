import json
import os
import subprocess
import sys
import time
from itertools import islice

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from memlm.data.corpus.shards import read_documents
from memlm.data.encoding import encode
from memlm.data.folders import list_shards
from memlm.data.tokenizer import PAD, TokenizerError, load_tokenizer, save_tokenizer, train_tokenizer
from tests.data.foreign_tokenizers import like_llama2, with_words

THEIRS = """
from pathlib import Path
from transformers import AutoTokenizer, PreTrainedTokenizerFast
Path({mark!r}).write_text("their code ran")
class Theirs(PreTrainedTokenizerFast): pass
"""
TEXTS = [
    f"The river Lo{'ra' * (i % 7)} was bridged in {1900 + i}, said the mayor of town {i % 13}." for i in range(200)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=290)


@pytest.mark.parametrize(
    "text", ["The river in 1984.", " two  spaces\n\ttabs ", "Çandarlı, 東京 and 🙂", "\x00\x7f", "½ ²", ""]
)
def test_any_text_is_decoded_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_each_digit_is_a_token(tokenizer):
    assert [token for token in tokenizer.tokenize("in 1984") if token.strip("Ġ").isdigit()] == ["1", "9", "8", "4"]
    assert not any(len(token) > 1 and any(letter.isdigit() for letter in token) for token in tokenizer.get_vocab())


def test_merges_are_learned_and_the_size_is_kept(tokenizer):
    assert len(tokenizer) == 290
    assert len(tokenizer.encode("The river was bridged")) < len("The river was bridged")


def test_no_special_token_is_added_by_itself(tokenizer):
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(special) == 3
    assert not special & set(tokenizer.encode("The river"))


def test_training_is_deterministic_across_processes(tokenizer):
    """The other process has other hash seeds and thread timings."""
    code = (
        "from memlm.data.tokenizer import train_tokenizer\n"
        f"tokenizer = train_tokenizer({TEXTS!r}, vocab_size=290)\n"
        "print(tokenizer.backend_tokenizer.to_str())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == tokenizer.backend_tokenizer.to_str()


def test_a_saved_tokenizer_encodes_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.encode(TEXTS[5] + " ½ 12") == tokenizer.encode(TEXTS[5] + " ½ 12")
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2)
    assert len(loaded) == len(tokenizer)
    assert loaded.decode(loaded.encode("a , b ' s")) == "a , b ' s"


@pytest.mark.parametrize("pad", [{}, {"pad_token": "<eos>"}])
def test_a_pad_token_distinct_from_eos_is_added(tmp_path, pad):
    backend = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "<unk>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>", **pad).save_pretrained(
        tmp_path
    )
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token_id == 3 and loaded.eos_token_id == 0 and len(loaded) == 4


@pytest.mark.parametrize("name", ["<unk>", "<s>", "</s>"])
def test_a_pad_that_is_another_special_token_is_replaced(tmp_path, name):
    tokenizer = like_llama2(tmp_path, pad_token=name)
    assert tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.pad_token_id not in {tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}


@pytest.mark.parametrize("ids", [(1, 2, 3), (1, 2, 4), (1, 2, 3, 9), (4, 5, 6), (7, 300, 900)])
def test_gaps_in_ids_are_filled_and_not_used_for_the_pad(tmp_path, ids):
    vocabulary = {"<eos>": 0} | dict(zip(["<unk>", "a", "b", "c"], ids, strict=False))
    tokenizer = with_words(tmp_path, vocabulary)
    assert len(tokenizer) == max(ids) + 2 and tokenizer.pad_token_id == max(ids) + 1
    assert tokenizer("a b")["input_ids"] == [vocabulary["a"], vocabulary["b"]]
    assert tokenizer.convert_ids_to_tokens([vocabulary["a"], vocabulary["b"]]) == ["a", "b"]
    assert len(set(tokenizer.get_vocab().values())) == len(tokenizer.get_vocab()) == len(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    assert len(again) == len(tokenizer) and again.get_vocab() == tokenizer.get_vocab()


def test_an_id_far_beyond_the_tokens_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="3 tokens and a highest id of 100000.*99998 unused ids"):
        with_words(tmp_path, {"<eos>": 0, "<unk>": 1, "a": 100_000})


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))).save_pretrained(
        tmp_path
    )
    with pytest.raises(TokenizerError, match="no end-of-text token"):
        load_tokenizer(str(tmp_path))


def test_bad_requests_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(TokenizerError, match="vocab_size is 100"):
        train_tokenizer(TEXTS, vocab_size=100)
    with pytest.raises(TokenizerError, match="corpus is empty"):
        train_tokenizer([], vocab_size=290)
    with pytest.raises(TokenizerError, match="this folder does not exist"):
        load_tokenizer(str(tmp_path / "missing"))


def test_unknown_or_damaged_tokenizers_give_one_error_with_the_remedy(tmp_path, tokenizer):
    with pytest.raises(TokenizerError, match="could not be loaded"):
        load_tokenizer("not a hub id")
    with pytest.raises(TokenizerError, match="could not be loaded"):
        load_tokenizer(str(tmp_path))
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(TokenizerError, match="could not be loaded"):
        load_tokenizer(str(tmp_path))


def test_code_in_a_folder_is_neither_run_nor_asked_about(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": [None, "theirs.Theirs"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "theirs.py").write_text(THEIRS.format(mark=str(tmp_path / "ran")))
    code = f"from memlm.data.tokenizer import load_tokenizer; load_tokenizer({str(tmp_path)!r})"
    answered = subprocess.run([sys.executable, "-c", code], input="y\ny\n", capture_output=True, text=True, timeout=60)
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in answered.stdout + answered.stderr
    said = answered.stderr.strip().splitlines()[-1]
    assert "could not be loaded" in said and "memlm never does" in said


def test_an_unreachable_hub_fails_quickly(monkeypatch):
    """Without a network, it must not wait for the minute of retries that the download itself would
    take."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(TokenizerError, match="'nobody/nothing' could not be loaded .*Give the folder"):
        load_tokenizer("nobody/nothing")
    assert time.monotonic() - started < 5


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="MEMLM_DATA, the folder of real files, is not set")
def test_trained_on_real_text_it_compresses_and_restores_it():
    shard = list_shards(os.path.join(os.environ["MEMLM_DATA"], "text", "wiki2015-lead4k"), report=print)[0]
    texts = [document.text for document in islice(read_documents(shard), 300)]
    tokenizer = train_tokenizer(texts[:200], vocab_size=4096)
    unseen = "\n".join(texts[200:])
    ids = tokenizer.encode(unseen)
    assert tokenizer.decode(ids) == unseen
    assert len(unseen) / len(ids) > 3


def test_loading_settings_of_the_original_folder_are_not_saved(tokenizer, tmp_path):
    """Such settings are a key, a path on somebody's machine, and the name of code that is not in
    the folder, which a trusting loader would look for."""
    first, second = tmp_path / "first", tmp_path / "second"
    tokenizer.save_pretrained(first)
    config = json.loads((first / "tokenizer_config.json").read_text())
    kept = {
        "token": "hf_canary",
        "cache_dir": "/home/me",
        "_commit_hash": "a",
        "revision": "b",
    }
    auto_map = {"AutoTokenizer": ["tokenization_own.Own", None]}
    (first / "tokenizer_config.json").write_text(json.dumps({**config, **kept, "auto_map": auto_map}))
    save_tokenizer(load_tokenizer(str(first)), second)
    saved = json.loads((second / "tokenizer_config.json").read_text())
    assert not {*kept, "auto_map"} & saved.keys()
    assert len(AutoTokenizer.from_pretrained(second, trust_remote_code=True)) == len(tokenizer)


def test_a_tokenizer_is_saved_without_loading_settings_and_with_its_maximum_length(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "first")
    loaded = load_tokenizer(str(tmp_path / "first"))
    save_tokenizer(loaded, tmp_path / "second", max_length=512)
    saved = json.loads((tmp_path / "second" / "tokenizer_config.json").read_text())
    assert saved["model_max_length"] == 512
    assert not {"local_files_only", "is_local", "trust_remote_code", "name_or_path"} & saved.keys()
    assert loaded.model_max_length > 512  # unchanged
    again = AutoTokenizer.from_pretrained(tmp_path / "second")
    assert again.model_max_length == 512 and again(TEXTS[:20])["input_ids"] == tokenizer(TEXTS[:20])["input_ids"]


def test_a_chat_template_is_kept_from_folder_to_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "first")
    (tmp_path / "first" / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    )
    save_tokenizer(load_tokenizer(str(tmp_path / "first")), tmp_path / "corpus")
    save_tokenizer(load_tokenizer(str(tmp_path / "corpus")), tmp_path / "checkpoint", max_length=8)
    chat = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert chat.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False) == "[user] Hello\n"


@pytest.mark.parametrize("settings", [b'{"model_max_length": {"a": 1}}', b"[]", b"{", b'{"added_tokens_decoder": 5}'])
def test_invalid_settings_are_refused_in_one_line(tmp_path, settings):
    train_tokenizer(["Ann was born in Oslo."], vocab_size=300).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(settings)
    with pytest.raises(TokenizerError, match="could not be loaded from a folder") as refused:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_letter_is_not_used_as_pad_because_text_may_end_in_it(tmp_path):
    tokenizer = like_llama2(tmp_path, pad_token="a")
    assert tokenizer.pad_token == PAD and tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.pad_token_id not in encode(tokenizer, "banana a")


def test_a_model_without_a_row_for_a_pad_is_padded_with_a_token_that_stands_for_nothing(tmp_path):
    with_a_pad = with_words(tmp_path, {"<eos>": 0, "<unk>": 1, "a": 2}, extra_special_tokens=["<a>", "<b>"])
    rows = len(with_a_pad) - 1
    loaded = load_tokenizer(str(tmp_path), num_rows=rows)
    assert (len(loaded), loaded.pad_token) == (rows, "<b>")
    more = load_tokenizer(str(tmp_path), num_rows=rows + 1)
    assert (len(more), more.pad_token_id) == (rows + 1, rows)


def test_a_pad_that_has_a_row_is_used_whatever_the_settings_call_the_pad(tmp_path):
    tokenizer = train_tokenizer(["a line of text"], vocab_size=270)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path), num_rows=len(tokenizer))
    assert (len(loaded), loaded.pad_token) == (len(tokenizer), PAD)


def test_where_every_special_token_has_a_role_the_one_that_begins_texts_pads(tmp_path):
    """As in Llama 2's, some of whose bytes are marked as special: memlm never writes it."""
    with_a_pad = like_llama2(tmp_path)
    loaded = load_tokenizer(str(tmp_path), num_rows=len(with_a_pad) - 1)
    assert (len(loaded), loaded.pad_token) == (len(with_a_pad) - 1, "<s>")


def test_a_model_without_a_row_and_a_tokenizer_without_a_token_for_pads_are_refused(tmp_path):
    """As GPT-2's, which has one special token."""
    own = with_words(tmp_path, {"<eos>": 0, "<unk>": 1, "a": 2})
    with pytest.raises(TokenizerError, match="has no token to pad rows with, and its model has no row for another"):
        load_tokenizer(str(tmp_path), num_rows=len(own) - 1)
