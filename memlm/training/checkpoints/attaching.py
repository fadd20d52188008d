"""Attach a memory to somebody else's model: the result is a checkpoint, which learns facts as
memlm's own models do.

Whole, it is an ordinary folder of Hugging Face's libraries. As an adapter, it is the memory alone,
which is loaded into its base. Its keys are fitted to background text, where there is a tokenizer to
read text with.
"""

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from memlm import storage
from memlm.data.tokenizer import save_tokenizer
from memlm.kinds import CHECKPOINT_KIND
from memlm.model.bases.adapter import save_adapter
from memlm.model.bases.attaching import with_memory
from memlm.model.bases.base import Base, BaseError, load_base, open_base, require_room
from memlm.model.bases.dense_addition import add_dense
from memlm.model.bases.key_fitting import FittingError, num_tokens_to_fit
from memlm.model.config import MemoryConfig, Placement
from memlm.model.decoders.classes import MemoryHead
from memlm.model.language_model import NumParameters, count_parameters
from memlm.outside import reading, reason_of
from memlm.training.checkpoints.background_text import read_blocks, sample_blocks
from memlm.training.checkpoints.fitting import digest_of_blocks, fit_to_text
from memlm.training.checkpoints.gates import (
    DEFAULT_PROBES,
    Measured,
    MeasuredControl,
    measure,
    measure_control,
)
from memlm.training.checkpoints.model_card import attached_card
from memlm.training.checkpoints.text_loss import end_of_text, mean_loss

Form = Literal["whole", "adapter"]
Keys = Literal["fitted", "random"]
Precision = Literal["auto", "fp32", "bf16"]
TYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}
log = logging.getLogger(__name__)
MAX_TOP_K, MAX_KEY_DIM = 16, 128
"""Defaults where the pool and the base are large enough."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True, kw_only=True)
class Attached:
    """What an attach made."""

    digest: str
    memory: MemoryConfig
    parameters: NumParameters
    has_tokenizer: bool
    measured: Measured | None
    """None for random keys."""
    control: MeasuredControl | None
    """If it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """Text to fit keys to, and as much again to measure the memory on."""

    fitted: Int[Tensor, "blocks block_size"]
    measured: Int[Tensor, "blocks block_size"]

    @staticmethod
    def of(blocks: Int[Tensor, "blocks block_size"]) -> "Background":
        if len(blocks) < 2:
            raise FittingError("the background text does not fill two blocks of tokens; give more text")
        return Background(fitted=blocks[::2], measured=blocks[1::2])


def attach(
    base: str,
    out: str,
    *,
    layer: int,
    slots: int,
    placement: Placement = "parallel",
    form: Form = "whole",
    num_heads: int = 4,
    top_k: int | None = None,
    key_dim: int | None = None,
    value_dim: int | None = None,
    precision: Precision = "auto",
    keys: Keys = "fitted",
    text: str | None = None,
    key_tokens: int | None = None,
    num_probes: int = DEFAULT_PROBES,
    control: bool = False,
    seed: int = 0,
) -> Attached:
    """Write a base with a memory of that many slots, in or parallel to a layer's feed-forward
    network, as a checkpoint. Values are zero if it is parallel.

    Keys are fitted to `key_tokens` tokens of `text`, a folder of shards, or of what the base writes
    by itself; without a tokenizer they are random. What is None fits the base and the pool. To
    measure it, it learns `num_probes` facts and forgets them again; with `control`, a dense network
    in its place learns them, too. Raises ValueError before any weight is read, and StorageError if
    something else is at `out`.
    """
    _check_measuring(num_probes, control, keys)
    found = open_base(base)
    memory = _memory(
        found.config,
        layer=layer,
        slots=slots,
        num_heads=num_heads,
        top_k=top_k,
        key_dim=key_dim,
        value_dim=value_dim,
        placement=placement,
    )
    dtype = TYPES[precision]
    require_room(found, num_values=memory.num_slots * memory.value_dim, dtype=dtype)
    tokenizer = tokenizer_of(found)
    number = key_tokens or num_tokens_to_fit(memory.num_half_keys)
    blocks = _given_text(found, text, tokenizer, keys, num_tokens=number)
    fitted = {"key_tokens": number} if tokenizer is not None and keys == "fitted" else {}
    named = {"memory": asdict(memory), "form": form, "precision": precision, "seed": seed, **fitted}
    inputs = {"base": found.digest, **({} if blocks is None else {"text": digest_of_blocks(blocks)})}
    with storage.write_artifact(out, kind=CHECKPOINT_KIND, config={"attached": named}, inputs=inputs) as draft:
        own, measured, beside = load_base(found, dtype=dtype), None, None
        if tokenizer is None or keys == "random":
            model = with_memory(own, memory, seed=seed)
        else:
            blocks = _own_text(own, tokenizer, num_tokens=number, seed=seed) if blocks is None else blocks
            background = Background.of(blocks)
            model, measured = with_fitted_memory(own, memory, tokenizer, background, seed=seed, num_probes=num_probes)
            draft.details["gates"] = measured.as_json()
            if control:
                beside = control_of(
                    own, memory, tokenizer, background, measured.base_loss, seed=seed, num_probes=num_probes
                )
                draft.details["control"] = beside.as_json()
        parameters = count_parameters(model)
        _write(model, found, memory, tokenizer, draft.path, form=form)
        draft.details.update(base=found.address, parameters=asdict(parameters))
    digest = storage.read_manifest(out, CHECKPOINT_KIND).digest
    has_tokenizer = tokenizer is not None
    return Attached(
        digest=digest,
        memory=memory,
        parameters=parameters,
        has_tokenizer=has_tokenizer,
        measured=measured,
        control=beside,
    )


def _check_measuring(num_probes: int, control: bool, keys: Keys) -> None:
    if num_probes < 0:
        raise ValueError(f"num_probes is {num_probes}; it must not be negative (0 for none)")
    if control and (not num_probes or keys == "random"):
        reason = "keys is 'random', which are not measured" if num_probes else "num_probes is 0"
        raise ValueError(
            f"control is True, and {reason}, so there is nothing to compare with; leave one of the two out"
        )


def _given_text(
    base: Base, text: str | None, tokenizer: PreTrainedTokenizerBase | None, keys: Keys, *, num_tokens: int
) -> Int[Tensor, "blocks block_size"] | None:
    """Twice num_tokens tokens of the text that was named, if any."""
    if text is None:
        return None
    if keys == "random":
        raise ValueError(
            f"text is {text!r}, and keys is 'random', which are fitted to no text; leave one of the two out"
        )
    if tokenizer is None:
        raise ValueError(
            f"text is {text!r}, and base {base.address} has no tokenizer to read it with; put its tokenizer's files into its folder, or leave text out"
        )
    return read_blocks(text, tokenizer, num_tokens=2 * num_tokens, max_length=base.config.max_position_embeddings)


def _own_text(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, num_tokens: int, seed: int
) -> Int[Tensor, "blocks block_size"]:
    """Twice num_tokens tokens that the base writes by itself."""
    log.warning("no text is given, so the base writes %s tokens by itself first", f"{2 * num_tokens:,}")
    longest = base.config.max_position_embeddings
    return sample_blocks(base, tokenizer, num_tokens=2 * num_tokens, max_length=longest, seed=seed)


def _write(
    model: MemoryHead,
    base: Base,
    memory: MemoryConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    form: Form,
) -> None:
    """Write the files of the checkpoint."""
    if form == "adapter":
        save_adapter(model, base, memory, folder)
    else:
        model.save_pretrained(folder)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder, max_length=base.config.max_position_embeddings)
    card = attached_card(base, memory, count_parameters(model), adapter=form == "adapter")
    Path(folder, storage.README).write_text(card, encoding="utf-8")


def with_fitted_memory(
    base: PreTrainedModel,
    memory: MemoryConfig,
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    *,
    seed: int,
    num_probes: int,
) -> tuple[MemoryHead, Measured]:
    """The base with a memory whose keys fit the background text, and how the rest of that text
    finds it."""
    eos_id = end_of_text(tokenizer)
    base_loss = mean_loss(base, background.measured, eos_id=eos_id)
    model = with_memory(base, memory, seed=seed)
    fit_to_text(model, background.fitted, eos_id=eos_id, seed=seed)
    return model, measure(model, tokenizer, background.measured, base_loss=base_loss, num_probes=num_probes)


def control_of(
    base: PreTrainedModel,
    memory: MemoryConfig,
    tokenizer: PreTrainedTokenizerBase,
    background: Background,
    base_loss: float,
    *,
    seed: int,
    num_probes: int,
) -> MeasuredControl:
    """What a dense network in the memory's place learns of the probe facts. The base is changed."""
    names = add_dense(base, memory, seed=seed)
    return measure_control(base, names, tokenizer, background.measured, base_loss=base_loss, num_probes=num_probes)


def tokenizer_of(base: Base) -> PreTrainedTokenizerBase | None:
    """The base's own tokenizer; None for a folder without one. Raises BaseError if it is not a fast
    one."""
    if not base.gguf and not any((base.folder / name).is_file() for name in TOKENIZER_FILES):
        return None

    def refuse(reason: str) -> BaseError:
        return BaseError(
            f"base {base.address}: its tokenizer cannot be loaded as a fast one ({reason}); save one in the folder, with a tokenizer.json, "
            "or remove the tokenizer's files to attach without it"
        )

    try:
        with reading(refuse):
            tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False, **base.loading)
    except OSError as error:
        raise refuse(reason_of(error)) from error
    if not tokenizer.is_fast:
        raise refuse(f"{type(tokenizer).__name__} is slow")
    return tokenizer


def require_layer(base: PreTrainedConfig, name: str, layer: int) -> None:
    """Raise ValueError, naming the setting, for a layer that the base does not have."""
    if not 0 <= layer < base.num_hidden_layers:
        raise ValueError(
            f"{name} is {layer}, but the base has layers 0 to {base.num_hidden_layers - 1}; take one of them, of the middle third if unsure"
        )


def _memory(
    base: PreTrainedConfig,
    *,
    layer: int,
    slots: int,
    num_heads: int,
    top_k: int | None,
    key_dim: int | None,
    value_dim: int | None,
    placement: Placement,
) -> MemoryConfig:
    """The memory's shape, checked against the base."""
    require_layer(base, "layer", layer)
    half_keys = math.isqrt(max(0, slots))
    if half_keys**2 != slots or not slots:
        raise ValueError(
            f"slots is {slots}, which is not a square; each slot is a pair of half-keys, so take {max(1, half_keys) ** 2} or {(half_keys + 1) ** 2}"
        )
    return MemoryConfig(
        layers=(layer,),
        num_half_keys=half_keys,
        top_k=min(MAX_TOP_K, half_keys) if top_k is None else top_k,
        num_heads=num_heads,
        key_dim=min(MAX_KEY_DIM, base.hidden_size // 2 * 2) if key_dim is None else key_dim,
        value_dim=base.hidden_size if value_dim is None else value_dim,
        query_norm=True,
        placement=placement,
    )
