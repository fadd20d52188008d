"""Train a tokenizer on a sample of the corpus, or load any from the Hugging Face hub.

`prepare_corpus` does this once and stores the tokenizer next to the blocks; every later stage reads
it from there.
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
from memlm.data.encoding import BYTE_PIECE
from memlm.outside import reading, reason_of

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
HUB_TIMEOUT_SECONDS = 10
MIN_VOCAB_SIZE = 256 + 3  # all bytes, and the special tokens
MAX_UNUSED_IDS = 1000
"""Number of ids that any vocabulary may leave unused; a large one may leave as many ids unused as
it has tokens. A model has a row for each id."""

ROWS_SETTING = "num_model_rows"
"""Setting of a saved tokenizer: the rows of the model that it was loaded for."""

LOADING_SETTINGS = (
    *("local_files_only", "is_local", "trust_remote_code", "auto_map", "token", "cache_dir"),
    *("proxies", "force_download", "resume_download", "revision", "subfolder", "_commit_hash", "_from_auto"),
)
"""Settings that describe how a tokenizer was loaded instead of what it is. Saved folders may
contain them."""
_ANY_TEXT = "A line of text, in 1984.\n"


class TokenizerError(PublicError):
    """The tokenizer cannot be trained or loaded as requested."""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the texts. The same texts give the same tokenizer.

    Every string can be encoded and is decoded unchanged. Each digit is a token of its own, so
    numbers are spelled the same everywhere and arithmetic can be learned. Encoding adds no special
    tokens; packing and the streams place them. A small corpus may give fewer merges than requested,
    so size a model by `len(tokenizer)`.
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


def load_tokenizer(name_or_path: str, *, num_rows: int | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a local folder or by its hub id, for a model with `len(tokenizer)`
    rows, or for a model that has `num_rows` already.

    All ids are below that length: unused ids get placeholders. The pad token is used for nothing
    else: if it is missing, is a letter or equals another special token, such as the end of text, a
    new one is added, which increases the length by one. Where a model has no row left for it, a
    special token that is none of these becomes the pad token, or else the one that begins texts,
    which memlm never writes.
    """
    if name_or_path.startswith((".", "/", "~")) and not Path(name_or_path).is_dir():
        raise TokenizerError(
            f"tokenizer {name_or_path!r}: this folder does not exist. Give a saved tokenizer's folder or a hub id."
        )
    with _opening(name_or_path):
        tokenizer = _from_folder_cache_or_hub(name_or_path)
        tokenizer(_ANY_TEXT, add_special_tokens=False)  # settings of a wrong type show up at the first use
    if tokenizer.eos_token_id is None:
        raise TokenizerError(
            f"tokenizer {name_or_path!r} has no end-of-text token, which separates packed documents. "
            "Use one made for a causal model."
        )
    _fill_gaps(name_or_path, tokenizer)
    num_rows = _noted_rows(tokenizer, num_rows)
    others = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, None}
    # If the pad token is a letter, that letter at the end of a block would be taken for a pad.
    if tokenizer.pad_token_id in others or len(tokenizer.pad_token) == 1:
        has_row = num_rows is None or len(tokenizer) < num_rows or PAD in tokenizer.get_vocab()
        tokenizer.add_special_tokens({"pad_token": PAD if has_row else _unused_token(name_or_path, tokenizer)})
    return tokenizer


def _noted_rows(tokenizer: PreTrainedTokenizerBase, num_rows: int | None) -> int | None:
    """The number of rows that is given, or was when the tokenizer was loaded before it was saved:
    a pad token that was chosen for a model without another row is then kept."""
    if num_rows is not None:
        tokenizer.init_kwargs[ROWS_SETTING] = num_rows
    noted = tokenizer.init_kwargs.get(ROWS_SETTING)
    return noted if isinstance(noted, int) else None


def _unused_token(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A special token that stands for nothing in a text. Raises TokenizerError if there is
    none."""
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    added = {id: token for id, token in tokenizer.added_tokens_decoder.items() if token.special and id not in used}
    spare = {id: token.content for id, token in added.items() if not BYTE_PIECE.fullmatch(token.content)}
    if spare:
        return spare[max(spare)]
    if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id):
        return str(tokenizer.bos_token)
    raise TokenizerError(
        f"tokenizer {name!r} has no token to pad rows with, and its model has no row for another. "
        "Give the model one more row of embeddings, and the tokenizer a pad token for it."
    )


def _fill_gaps(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give each unused id a placeholder that no text contains, so that no added token takes an id
    that is in use.

    Raises TokenizerError if two tokens share an id, or if a model would be sized by far more ids
    than tokens.
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
            f"tokenizer {name!r} has {len(used)} tokens and a highest id of {size - 1}, so a model would have a row for each of {unused} unused ids. "
            "Number its tokens from 0 without gaps."
        )
    if unused:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(
                f"tokenizer {name!r} leaves {unused} ids unused, and has no tokenizer.json in which they could be filled. Save it as a fast tokenizer."
            )
        content = json.loads(backend.to_str())
        content["model"]["vocab"].update({f"<|unused{id}|>": id for id in range(size) if id not in used})
        backend.model = Tokenizer.from_str(json.dumps(content)).model


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, max_length: int | None = None) -> None:
    """Save a tokenizer, including a chat template if it has one, without settings that only
    describe how it was loaded.

    `max_length` is the maximum input length of the model that is saved with it, in tokens.
    """
    saved = copy.deepcopy(tokenizer)
    for name in LOADING_SETTINGS:
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
            "(which needs the network once). It must not need code of its own."
        )

    try:
        with reading(refuse):
            yield
    except OSError as error:  # the hub's client and transformers raise it, with several lines of text
        raise refuse(reason_of(error)) from error


def _from_folder_cache_or_hub(name_or_path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name_or_path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        if Path(name_or_path).is_dir():
            raise
        # Ask the hub first, with a short timeout: without a network the download itself would retry
        # for most of a minute.
        strip_credentials(*HUB_TOKENS)
        HfApi().model_info(name_or_path, timeout=HUB_TIMEOUT_SECONDS)
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
