"""Attach a memory to somebody else's model: the result is a checkpoint, which learns facts as
memlm's own models do.

Whole, it is an ordinary folder of Hugging Face's libraries. As an adapter, it is the memory alone,
which is loaded into its base.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from memlm import storage
from memlm.data.tokenizer import save_tokenizer
from memlm.kinds import CHECKPOINT_KIND
from memlm.model.bases.adapter import save_adapter
from memlm.model.bases.attaching import with_memory
from memlm.model.bases.base import Base, BaseError, load_base, open_base, require_room
from memlm.model.config import MemoryConfig, Placement
from memlm.model.language_model import NumParameters, count_parameters
from memlm.outside import reading, reason_of
from memlm.training.checkpoints.model_card import attached_card

Form = Literal["whole", "adapter"]
Precision = Literal["auto", "fp32", "bf16"]
TYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}
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
    seed: int = 0,
) -> Attached:
    """Write a base with a memory of that many slots, in or parallel to a layer's feed-forward
    network, as a checkpoint. Keys are random, values zero if it is parallel.

    What is None fits the base and the pool. Raises ValueError before any weight is read, and
    StorageError if something else is at `out`.
    """
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
    settings = {"attached": {"memory": asdict(memory), "form": form, "precision": precision, "seed": seed}}
    with storage.write_artifact(out, kind=CHECKPOINT_KIND, config=settings, inputs={"base": found.digest}) as draft:
        model = with_memory(load_base(found, dtype=dtype), memory, seed=seed)
        if form == "adapter":
            save_adapter(model, found, memory, draft.path)
        else:
            model.save_pretrained(draft.path)
        if tokenizer is not None:
            save_tokenizer(tokenizer, draft.path, max_length=found.config.max_position_embeddings)
        parameters = count_parameters(model)
        card = attached_card(found, memory, parameters, adapter=form == "adapter")
        Path(draft.path, storage.README).write_text(card, encoding="utf-8")
        draft.details.update(base=found.address, parameters=asdict(parameters))
    digest = storage.read_manifest(out, CHECKPOINT_KIND).digest
    return Attached(digest=digest, memory=memory, parameters=parameters, has_tokenizer=tokenizer is not None)


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
    if not 0 <= layer < base.num_hidden_layers:
        raise ValueError(
            f"layer is {layer}, but the base has layers 0 to {base.num_hidden_layers - 1}; take one of them, of the middle third if unsure"
        )
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
