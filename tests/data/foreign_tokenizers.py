"""Small tokenizers of the kinds that other libraries save, such as T5's and Llama 2's, including
the faults of their folders."""

import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from memlm.data.tokenizer import load_tokenizer

LETTERS = string.ascii_letters + string.digits + string.punctuation


def saved(folder: Path, backend: Tokenizer, **names: str) -> PreTrainedTokenizerBase:
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return load_tokenizer(str(folder))


def like_t5(folder: Path, *words: str) -> PreTrainedTokenizerBase:
    """A tokenizer that reads a line break as a space, and whose vocabulary contains the names of
    the special tokens."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*special, ("▁", -2.0), *((letter, -3.0) for letter in LETTERS), *((word, -1.0) for word in words)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return saved(folder, backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def like_llama2(folder: Path, **names: str) -> PreTrainedTokenizerBase:
    """A tokenizer whose folder marks byte pieces as special tokens. It has no pad unless `names`
    gives one."""
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.ascii_letters]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in tokens[:259]])
    return saved(folder, backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **names)


def with_words(folder: Path, vocabulary: dict[str, int], **names: str) -> PreTrainedTokenizerBase:
    """A tokenizer with one token per word, with the given ids."""
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return saved(folder, backend, eos_token="<eos>", unk_token="<unk>", **names)
