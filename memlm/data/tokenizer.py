"""Which tokenizer turns text into ids? One trained on a sample of the corpus, or any from the
Hugging Face hub.

Made once by `prepare_corpus`, stored beside the blocks, and read by every later stage.
"""

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from huggingface_hub import HfApi
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from memlm.credentials import HUB as HUB_TOKENS
from memlm.credentials import PublicError, strip_credentials
from memlm.outside import reading, reason_of

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
HUB_TIMEOUT_SECONDS = 10
MIN_VOCAB_SIZE = 256 + 3  # every byte, and the special tokens
MAX_UNUSED_IDS = 1000
"""The most that a small vocabulary may leave unused; a large one may leave as many ids unused as
it has tokens. A model has a row for each."""

OF_LOADING = (
    *("local_files_only", "is_local", "trust_remote_code", "auto_map", "token", "cache_dir"),
    *("proxies", "force_download", "resume_download", "revision", "subfolder", "_commit_hash", "_from_auto"),
)
"""Settings that say how a tokenizer was loaded, by whom and with which code, and not what it is.
A folder may have kept them."""
_ANY_TEXT = "A line of text, in 1984.\n"


class TokenizerError(PublicError):
    """The tokenizer cannot be trained or loaded as asked."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the texts; the same texts give the same tokenizer.

    Every string can be encoded and comes back unchanged. Each digit is a token of its own, so
    numbers are spelled alike wherever they stand and arithmetic can be learned. Encoding adds no
    special token: packing and the streams place them. A small corpus may hold fewer merges than
    asked for, so size a model by `len(tokenizer)`.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size is {vocab_size}, but 256 bytes and 3 special tokens need {MIN_VOCAB_SIZE}. Ask for more."
        )
    texts = iter(texts)
    first = next(texts, None)
    if first is None:
        raise TokenizerError(
            "no text to train a tokenizer on: the corpus is empty. Check the corpus path and its shards."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain([first], texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a local folder or by its hub id, ready for a model of
    `len(tokenizer)` rows.

    Every id is below that length: ids that the vocabulary leaves out get placeholders. The pad
    token stands for nothing else: where it is missing, a letter or another special token, such
    as the end of text, a new one is added, which makes the length one larger.
    """
    if name_or_path.startswith((".", "/", "~")) and not Path(name_or_path).is_dir():
        raise TokenizerError(
            f"tokenizer {name_or_path!r}: there is no such folder. Give a saved tokenizer's folder or a hub id."
        )
    with _opening(name_or_path):
        tokenizer = _from_folder_cache_or_hub(name_or_path)
        tokenizer(_ANY_TEXT, add_special_tokens=False)  # settings of a wrong type show at the first use
    if tokenizer.eos_token_id is None:
        raise TokenizerError(
            f"tokenizer {name_or_path!r} has no end-of-text token, which separates packed documents. "
            "Use one made for a causal model."
        )
    _fill_gaps(name_or_path, tokenizer)
    others = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, None}
    # A letter that ends a block would be taken for a pad.
    if tokenizer.pad_token_id in others or len(tokenizer.pad_token) == 1:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def _fill_gaps(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give each id that the vocabulary leaves out a placeholder, which no text contains, so that
    no added token takes an id in use.

    Raises TokenizerError where two tokens share an id, or where far more ids than tokens would
    size a model.
    """
    vocabulary = tokenizer.get_vocab()
    used, size = set(vocabulary.values()), max(vocabulary.values(), default=-1) + 1
    if len(used) < len(vocabulary):
        raise TokenizerError(
            f"tokenizer {name!r} gives {len(vocabulary)} tokens only {len(used)} ids, so two tokens share one. Use a tokenizer whose ids differ."
        )
    unused = size - len(used)
    if unused > max(MAX_UNUSED_IDS, len(used)):
        raise TokenizerError(
            f"tokenizer {name!r} has {len(used)} tokens and an id of {size - 1}, and a model would hold a row for each of the {unused} ids between "
            "that no token has. Number its tokens from 0 without gaps."
        )
    if unused:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(
                f"tokenizer {name!r} leaves out {unused} ids, and has no tokenizer.json in which they could be filled. Save it as a fast tokenizer."
            )
        content = json.loads(backend.to_str())
        content["model"]["vocab"].update({f"<|unused{id}|>": id for id in range(size) if id not in used})
        backend.model = Tokenizer.from_str(json.dumps(content)).model


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int | None = None) -> None:
    """Write it as it is, with its chat template where it has one, and without what says only how
    it was loaded here.

    `max_length` is the most tokens that the model saved with it takes.
    """
    saved = copy.deepcopy(tokenizer)
    for name in OF_LOADING:
        saved.init_kwargs.pop(name, None)
    if max_length is not None:
        saved.model_max_length = max_length
    saved.save_pretrained(folder)


@contextmanager
def _opening(name: str) -> Iterator[None]:
    def refuse(reason: str) -> TokenizerError:
        return TokenizerError(
            f"tokenizer {name!r} could not be loaded from a folder or the hub: {reason.rstrip('.')}. "
            "Give the folder of a saved tokenizer, or a Hugging Face hub id such as 'openai-community/gpt2' "
            "(which needs the network once), of one that needs no code of its own."
        )

    try:
        with reading(refuse):
            yield
    except OSError as error:  # the hub's client and transformers raise it, over several lines
        raise refuse(reason_of(error)) from error


def _from_folder_cache_or_hub(name_or_path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name_or_path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        if Path(name_or_path).is_dir():
            raise
        # One question first, answered at once: the download itself retries for most of a minute
        # without a network.
        strip_credentials(*HUB_TOKENS)
        HfApi().model_info(name_or_path, timeout=HUB_TIMEOUT_SECONDS)
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
