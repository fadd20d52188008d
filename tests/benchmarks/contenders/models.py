"""Whole models: the counting pass against the full forward pass, and a pretraining step of
either architecture."""

import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from memlm.config import Config
from memlm.data.corpus.blocks import Blocks, write_blocks
from memlm.data.corpus.packing import document_positions
from memlm.model.config import Architecture, ModelConfig
from memlm.model.language_model import attention_on, build_model, count_parameters, model_config
from memlm.recipes import RECIPES
from memlm.recipes.laptop import LAPTOP_MODEL
from memlm.slots.accesses import accesses_of, on_accesses
from memlm.slots.counts import BackgroundCounts
from tests.benchmarks.contender import Clock, Contender, begin_group_of_one
from tests.benchmarks.inputs import seeded

COUNTED_MODEL = replace(
    LAPTOP_MODEL,
    num_layers=9,
    hidden_size=256,
    num_attention_heads=8,
    intermediate_size=768,
    memory=replace(LAPTOP_MODEL.memory, layers=(4,), value_dim=256),
)
"""The laptop's model with twice its width and about twice its layers, memory in the middle: four
layers below it, four above."""
COUNTED_BLOCKS, BLOCK_SIZE, VOCAB_SIZE = 16, 128, 1024
"""The laptop recipe's micro-batch of counting."""
NUM_BLOCKS = 512
LLAMA_2_VOCABULARY = 32_000


def text_like(num_blocks: int, block_size: int, vocab_size: int) -> Int[Tensor, "blocks block_size"]:
    """Tokens as frequent as words are (Zipf). The last two of the vocabulary are eos, about one
    in 64, and pad, which does not occur."""
    frequency = 1 / torch.arange(1, vocab_size - 1, dtype=torch.float64)
    tokens = torch.multinomial(frequency, num_blocks * block_size, replacement=True, generator=seeded(9))
    tokens[::64] = vocab_size - 2
    return tokens.view(num_blocks, block_size)


class _Counting(Contender):
    def __init__(self, *, device: torch.device) -> None:
        config = model_config(
            COUNTED_MODEL, dense=False, vocab_size=VOCAB_SIZE, eos_id=VOCAB_SIZE - 2, pad_id=VOCAB_SIZE - 1
        )
        self.model = build_model(config, seed=0, attention=attention_on(device)).to(device).eval()
        self.num_slots = config.num_slots
        tokens = text_like(COUNTED_BLOCKS, BLOCK_SIZE, VOCAB_SIZE).to(device)
        positions = document_positions(tokens, eos_id=VOCAB_SIZE - 2)
        self.inputs = {"input_ids": tokens, "position_ids": positions}
        self.is_token = tokens != VOCAB_SIZE - 1

    @abstractmethod
    def accesses(self) -> Int[Tensor, "batch seq reads"]: ...

    def count(self) -> BackgroundCounts:
        return BackgroundCounts.of_batch(self.accesses(), self.is_token, num_slots=self.num_slots)

    def repeat(self, clock: Clock) -> None:
        with clock:
            self.count()

    def outputs(self) -> dict[str, Tensor]:
        counts = self.count()
        return {"accesses": counts.accesses, "sequence frequency": counts.sequence_frequency}


class CountingPass(_Counting):
    """The counting pass as the job runs it, which ends at the last memory layer's search."""

    def accesses(self) -> Int[Tensor, "batch seq reads"]:
        return accesses_of(self.model, **self.inputs)


class FullPass(_Counting):
    """The whole forward pass, with the accesses taken on the way."""

    @torch.no_grad()
    def accesses(self) -> Int[Tensor, "batch seq reads"]:
        found: list[Tensor] = []
        with on_accesses(self.model, lambda number, slots: found.append(slots)):
            self.model(**self.inputs, use_cache=False)
        return torch.cat(found, dim=-1)


def same_counts(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} of the slots differs" for name in theirs if not torch.equal(ours[name], theirs[name])]


class Pretraining(Contender):
    """Steps of a recipe's pretraining with its own engine, as one rank, from fresh weights."""

    def __init__(
        self, *, device: torch.device, recipe: str, architecture: Architecture, micro_batch_blocks: int = 0
    ) -> None:
        """`micro_batch_blocks` other than 0 takes that many blocks as the whole batch of a step."""
        from memlm.training.engine import Engine  # DeepSpeed takes seconds, and only these contenders need it
        from memlm.training.pretrain import pretrain

        config: Config = RECIPES[recipe]()
        settings = config.pretraining
        if micro_batch_blocks:
            settings = replace(settings, batch_blocks=micro_batch_blocks, micro_batch_blocks=micro_batch_blocks)
        self.folder = tempfile.TemporaryDirectory(prefix="memlm-bench-")
        path = Path(self.folder.name) / "blocks.parquet"
        block_size, vocab_size = config.corpus.block_size, vocabulary_of(config)
        write_blocks(str(path), text_like(NUM_BLOCKS, block_size, vocab_size).int().numpy())
        eos_id, pad_id = vocab_size - 2, vocab_size - 1
        shape = model_config(
            config.model, dense=architecture == "dense", vocab_size=vocab_size, eos_id=eos_id, pad_id=pad_id
        )
        self._end_group = begin_group_of_one(device)
        model = build_model(shape, seed=0, attention=attention_on(device))
        engine = Engine(model.to(device), replace(settings, num_steps=10**6))
        blocks = Blocks([str(path)])
        self.steps = pretrain(engine, blocks, engine.config, first_step=0, eos_id=eos_id, pad_id=pad_id)

    def repeat(self, clock: Clock) -> None:
        with clock:
            next(self.steps)

    def close(self) -> None:
        self._end_group()
        self.folder.cleanup()


def vocabulary_of(config: Config) -> int:
    """Tokens of a recipe's vocabulary. The only tokenizer that a recipe names is Llama 2's."""
    return LLAMA_2_VOCABULARY if config.corpus.tokenizer else config.corpus.vocab_size


def tokens_of_step(recipe: str, micro_batch_blocks: int = 0) -> int:
    config = RECIPES[recipe]()
    return (micro_batch_blocks or config.pretraining.batch_blocks) * config.corpus.block_size


def flops_per_token(model: ModelConfig, *, vocab_size: int, block_size: int) -> float:
    """FLOPs of a training step per token: six for each weight that a token is multiplied with, and
    attention over the block (Chowdhery et al. 2022, appendix B). The input embedding is looked up;
    a token uses the rows of the pool that it reads, and all half-keys.

    The input embedding is looked up; of the pool a token uses the rows that it reads, and of the
    half-keys all.
    """
    with torch.device("meta"):
        built = build_model(model_config(model, dense=False, vocab_size=vocab_size), seed=0)
    multiplied = count_parameters(built).active - vocab_size * model.hidden_size * (not model.tie_embeddings)
    return 6.0 * multiplied + 12.0 * model.num_layers * model.hidden_size * block_size
