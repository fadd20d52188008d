"""Parameters of a model, and operations per token, by part, from the config."""

from dataclasses import dataclass
from typing import Literal

from memlm.config import Config
from memlm.model.config import Architecture, ModelConfig

VOCABULARIES = {"meta-llama/Llama-2-7b-hf": 32_001, "EleutherAI/gpt-neox-20b": 50_278}
"""Sizes of known tokenizers, with the pad token that memlm adds."""


class PlanError(ValueError):
    """The options cannot be planned."""


def vocabulary_of(config: Config, given: int = 0) -> int:
    """Size of the vocabulary. Raises PlanError for a tokenizer of unknown size."""
    tokenizer = config.corpus.tokenizer
    if given or not tokenizer:
        return given or config.corpus.vocab_size
    if tokenizer not in VOCABULARIES:
        raise PlanError(
            f"corpus.tokenizer is {tokenizer!r}, whose size is unknown (known: {', '.join(VOCABULARIES)}); "
            "give it with --vocab-size"
        )
    return VOCABULARIES[tokenizer]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Parameters of a model, by part."""

    embeddings: int
    """Input and output embeddings; counted once if tied."""
    head: int
    """Part of the embeddings: the matrix that makes logits."""
    attention: int
    feed_forward: int
    norms: int
    memory_projections: int
    """Query, gate and output projections of the memory layers."""
    half_keys: int
    pool: int
    active_values: int
    """Values of the pool that one token reads."""

    @property
    def base(self) -> int:
        """All parameters except the pool."""
        return (
            self.embeddings + self.attention + self.feed_forward + self.norms + self.memory_projections + self.half_keys
        )

    @property
    def active(self) -> int:
        return self.base + self.active_values

    @property
    def cast(self) -> int:
        """Parameters of which autocast keeps a bf16 copy: the matrices of linear layers."""
        return self.attention + self.feed_forward + self.memory_projections + self.head


def sizes_of(model: ModelConfig, vocab_size: int, architecture: Architecture) -> Sizes:
    memory, hidden = model.memory, model.hidden_size
    layers = len(memory.layers) if architecture == "memory" else 0
    width = memory.num_heads * memory.key_dim
    projections = (
        hidden * width + width + (hidden + 1) * memory.value_dim + (memory.value_dim + 1) * hidden
    ) + memory.query_norm * memory.key_dim
    return Sizes(
        embeddings=vocab_size * hidden * (1 if model.tie_embeddings else 2),
        attention=model.num_layers * 4 * hidden**2,
        feed_forward=(model.num_layers - layers) * 3 * hidden * model.intermediate_size,
        norms=(2 * model.num_layers + 1) * hidden,
        memory_projections=layers * projections,
        half_keys=layers * memory.num_half_keys * width,
        pool=memory.num_slots * memory.num_pools * memory.value_dim if layers else 0,
        active_values=layers * reads_per_token(model, 1) * memory.value_dim,
        head=vocab_size * hidden,
    )


def reads_per_token(model: ModelConfig, num_layers: int) -> int:
    """Slots that a token reads in a number of memory layers."""
    return num_layers * model.memory.num_heads * model.memory.top_k


@dataclass(frozen=True, kw_only=True)
class Work:
    """Floating-point operations of one token in one part; a multiply-add counts as two."""

    forward: float
    backward: float = 0.0
    unit: Literal["product", "fp32 product", "rows"] = "product"
    """Kind of work: matrix products in the run's precision, matrix products always in fp32, or our
    own kernels, which read rows and whose time follows from their bytes."""

    @property
    def step(self) -> float:
        return self.forward + self.backward


def work_of(model: ModelConfig, vocab_size: int, sequence: int, architecture: Architecture) -> dict[str, Work]:
    """Work of a training step per token, by part. Attention is counted over the whole square, as
    kernels without a causal mask compute it."""
    memory, hidden = model.memory, model.hidden_size
    layers = len(memory.layers) if architecture == "memory" else 0
    parts = {
        "attention": _product(model.num_layers * 8 * hidden**2),
        "attention scores": _product(model.num_layers * 4 * sequence * hidden),
        "feed-forward": _product((model.num_layers - layers) * 6 * hidden * model.intermediate_size),
        "logits": _product(2 * vocab_size * hidden),
    }
    if not layers:
        return parts
    width, reads = memory.num_heads * memory.key_dim, memory.num_heads * memory.top_k
    # Pairs (i, j) of two sorted lists with (i + 1) * (j + 1) <= top_k.
    pairs = sum(memory.top_k // (rank + 1) for rank in range(memory.top_k))
    return parts | {
        "query, gate, output": _product(layers * 2 * hidden * (width + 2 * memory.value_dim)),
        # Each half of a query against all half-keys of its head; backward follows the slots that
        # were found.
        "half-key scores": Work(forward=2.0 * layers * memory.num_half_keys * width, unit="fp32 product"),
        "half-key gradient": Work(forward=0.0, backward=4.0 * layers * memory.top_k * width, unit="rows"),
        "pairs of half-keys": Work(forward=float(layers * memory.num_heads * pairs), unit="rows"),
        "weighted read": Work(
            forward=2.0 * layers * reads * memory.value_dim,
            backward=4.0 * layers * reads * memory.value_dim,
            unit="rows",
        ),
    }


def _product(forward: float) -> Work:
    """Work of a linear layer: backward makes one product for the input and one for the weights."""
    return Work(forward=float(forward), backward=2.0 * forward)
