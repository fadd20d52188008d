"""What is trained of a recipe with a base, and the checkpoint that it becomes.

The base's weights are never written by training: the checkpoint takes them, and all that did not
move, from the one before training.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memlm import storage
from memlm.data.corpus.corpus import Corpus
from memlm.data.tokenizer import save_tokenizer
from memlm.model.bases.base import Base, open_base
from memlm.model.bases.dense_addition import add_dense
from memlm.model.bases.frozen import train_alone, train_memory_alone
from memlm.model.config import MemoryConfig, Placement
from memlm.model.decoders.classes import MemoryHead
from memlm.model.language_model import NumParameters, count_parameters, load_checkpoint
from memlm.model.memory import without_additions
from memlm.training.checkpoints.attaching import tokenizer_of
from memlm.training.checkpoints.background_text import without_pads
from memlm.training.checkpoints.model_card import attached_card
from memlm.training.config import PretrainingConfig
from memlm.training.pretrain import Teacher

CPU = torch.device("cpu")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Types of a base while its memory is trained, by the config's precision."""


def memory_to_train(attached: Path, settings: PretrainingConfig, device: torch.device) -> MemoryHead:
    """The model of a checkpoint with a memory, of which the memory alone moves. In evaluation mode:
    a frozen base drops nothing out."""
    model: MemoryHead = load_checkpoint(attached, device)  # type: ignore[assignment]
    train_memory_alone(model, base_type=TYPES[settings.precision], fixed_keys=settings.keys == "fixed")
    return model


def control_to_train(
    base: Path, memory: MemoryConfig, settings: PretrainingConfig, device: torch.device
) -> PreTrainedModel:
    """The base with a dense network in the memory's place, which alone moves."""
    model = load_checkpoint(base, device)
    train_alone(model, add_dense(model, memory, seed=settings.seed), base_type=TYPES[settings.precision])
    return model


def teacher_of(model: nn.Module, base: Path, placement: Placement, settings: PretrainingConfig) -> Teacher | None:
    """What the base predicts, where the settings ask for distillation: the model itself without
    its additions, or, where they replace a part of the base, the base's own checkpoint."""
    if not settings.distillation_weight:
        return None
    if placement == "replace":
        device = next(model.parameters()).device
        original = load_checkpoint(base, device).to(TYPES[settings.precision]).requires_grad_(False)
        return lambda tokens, positions: _logits(original, tokens, positions)

    def without_memory(tokens: Tensor, positions: Tensor) -> Tensor:
        with without_additions(model):
            return _logits(model, tokens, positions)

    return without_memory


def _logits(
    model: nn.Module, tokens: Int[Tensor, "blocks block_size"], positions: Int[Tensor, "blocks block_size"]
) -> Float[Tensor, "blocks block_size vocab"]:
    logits: Tensor = model(input_ids=tokens, position_ids=positions, use_cache=False).logits
    return logits


def with_trained(attached: Path, weights: Mapping[str, Tensor]) -> MemoryHead:
    """The model of a checkpoint with a memory, on the CPU and in its own type, with weights that
    were trained."""
    model: MemoryHead = load_checkpoint(attached, CPU)  # type: ignore[assignment]
    unknown = model.load_state_dict(dict(weights), strict=False).unexpected_keys
    assert not unknown, unknown
    return model


def control_with_trained(
    base: Path, memory: MemoryConfig, weights: Mapping[str, Tensor], device: torch.device
) -> PreTrainedModel:
    """The base, in its own type, with the dense network that was trained in it."""
    model = load_checkpoint(base, device)
    names = add_dense(model, memory, seed=0)
    assert set(names) == set(weights), set(names) ^ set(weights)
    model.load_state_dict(dict(weights), strict=False)
    return model


def blocks_to_measure(corpus: Corpus, *, num_tokens: int) -> Int[Tensor, "blocks block_size"]:
    """About that many tokens of held-out text, or, where no block is full of it, of the text that
    is trained on."""
    for blocks in (corpus.validation_blocks(), corpus.train_blocks()):
        taken = blocks.take(range(min(len(blocks), -(-num_tokens // blocks.block_size))))
        whole = without_pads(taken, corpus.tokenizer)
        if len(whole):
            break
    return whole


def write_whole(
    model: MemoryHead, base_folder: Path, address: str, memory: MemoryConfig, folder: Path, *, num_tokens: int = 0
) -> NumParameters:
    """Write a base with a memory as a checkpoint. The base's own lies in a folder and came from an
    address; the memory was trained on `num_tokens` tokens."""
    base, tokenizer = open_checkpoint_of_base(base_folder, address)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, max_length=base.config.max_position_embeddings)
    parameters = count_parameters(model)
    card = attached_card(base, memory, parameters, adapter=False, num_tokens=num_tokens)
    (folder / storage.README).write_text(card, encoding="utf-8")
    return parameters


def open_checkpoint_of_base(folder: Path, address: str) -> tuple[Base, PreTrainedTokenizerBase]:
    """The base in its checkpoint's folder, under the address that it came from, and its
    tokenizer."""
    base = open_base(str(folder))
    tokenizer = tokenizer_of(base)
    assert tokenizer is not None, "checked before the base was written"
    return replace(base, address=address), tokenizer
