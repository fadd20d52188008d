"""Memory, network traffic and time of one of N devices in a step of pretraining."""

import functools
import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from memlm.config import Config
from memlm.model.config import Architecture
from memlm.preflight.cost.machines import Machine
from memlm.preflight.cost.model import Sizes, Work, reads_per_token, sizes_of, vocabulary_of, work_of
from memlm.training.config import EXCHANGED_BYTES

BANDWIDTH_REACHED = 0.7
"""Share of the peak bandwidth of memory or network that kernels and collectives reach."""
MEMORY_USED = 0.9
"""Share of a device's memory that a plan may fill; allocator and libraries need the rest."""
BUCKET_ELEMENTS = 500_000_000
"""Gradients in one of ZeRO's buffers: DeepSpeed's default reduce_bucket_size."""
KEPT_ELEMENTS = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered between two uses: DeepSpeed's default max_reuse_distance and
max_live_parameters."""
PERSISTENT_ELEMENTS = 100_000
"""Largest weight, in elements, that ZeRO-3 always keeps gathered: DeepSpeed's default
param_persistence_threshold."""
SPREAD_OF_READS = 1.7
"""Unevenness of a trained model's reads: the standard deviation of the logarithm of a slot's share
of the reads, assumed log-normal. Measured as sqrt(2 (ln slots - entropy)): 1.77 at the end of
`laptop`, 1.64 at the end of `wiki`."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Bytes that autograd keeps of one token for the backward pass."""

    value: int
    """Bytes per output of a linear layer."""
    hidden: int
    """Bytes per hidden unit and decoder layer: two norms with their input, queries, keys, values
    and the attention's output."""
    square: int
    """Bytes per attended position and head."""
    last: int
    """Bytes per hidden unit of the last norm."""


KEPT_OF_A_TOKEN = {
    "fp32": _Kept(value=4, hidden=40, square=4, last=12),
    # Residual and norms stay fp32; the input of each linear layer is cast to bf16.
    "bf16": _Kept(value=2, hidden=34, square=6, last=10),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Distribution of a step's batch and of the pools over the devices."""

    devices: int
    batch_blocks: int
    micro_blocks: int
    split: int = 1
    """Devices over which the columns of the pools are split; each such group has complete
    tables."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Pretraining of one architecture on a number of devices of one kind."""

    config: Config
    architecture: Architecture
    machine: Machine
    layout: Layout
    num_tokens: float
    """Tokens of the whole training."""
    vocab_size: int

    @property
    def sizes(self) -> Sizes:
        return sizes_of(self.config.model, self.vocab_size, self.architecture)

    @property
    def work(self) -> dict[str, Work]:
        return work_of(self.config.model, self.vocab_size, self.config.corpus.block_size, self.architecture)

    @property
    def is_lazy(self) -> bool:
        return self.sizes.pool > 0 and self.config.pretraining.pool_optimizer == "lazy_adam"

    @property
    def step_tokens(self) -> float:
        return self.layout.batch_blocks * self.config.corpus.block_size

    @property
    def rank_tokens(self) -> float:
        """Tokens of a step on one device."""
        return self.step_tokens / self.layout.devices

    @property
    def micro_tokens(self) -> float:
        return self.layout.micro_blocks * self.config.corpus.block_size

    @property
    def num_micro_batches(self) -> float:
        return self.rank_tokens / self.micro_tokens

    @property
    def num_steps(self) -> float:
        return self.num_tokens / self.step_tokens

    @property
    def reads(self) -> int:
        """Slots that a token reads, in all memory layers."""
        return reads_per_token(self.config.model, len(self.config.model.memory.layers) if self.sizes.pool else 0)

    def rows_read(self, tokens: float) -> float:
        """Number of distinct rows of all pools that a number of tokens read."""
        memory = self.config.model.memory
        pools = memory.num_pools
        return pools * distinct_rows(tokens * self.reads / max(1, pools), memory.num_slots) if self.sizes.pool else 0.0

    # Memory.

    def memory(self) -> dict[str, float]:
        """Bytes on one device at the peak of a step, by part."""
        settings, sizes, layout = self.config.pretraining, self.sizes, self.layout
        stage, share = settings.zero_stage, 1 / layout.devices
        engine = sizes.base + (0 if self.is_lazy else sizes.pool)
        held = {
            # ZeRO-3 keeps up to KEPT_ELEMENTS gathered in addition to its share.
            "weights": 4 * (engine * share + min(engine, KEPT_ELEMENTS)) if stage == 3 else 4 * engine,
            "weights in bf16": 2 * sizes.cast if settings.precision == "bf16" else 0,
            "gradients": 4 * engine * (share if stage >= 2 else 1),
            # With ZeRO, a copy of the weights in addition to the two moments.
            "optimizer": 12 * engine * share if stage else 8 * engine,
            "ZeRO's bucket": 4 * BUCKET_ELEMENTS if stage and layout.devices > 1 else 0,
            "activations": self.activations(),
            "logits or half-key scores": max(self.logits(), self.half_key_scores()),
        }
        return {name: float(number) for name, number in (held | self.pool_memory()).items()}

    def pool_memory(self) -> dict[str, float]:
        """Bytes of the parameters trained outside the engine."""
        if not self.is_lazy:
            return {}
        columns = self.config.model.memory.value_dim / self.layout.split
        own, merged = self.rows_read(self.rank_tokens * self.layout.split), self.rows_read(self.step_tokens)
        alone = self.layout.devices == self.layout.split
        return {
            "pool values": 4 * self.sizes.pool / self.layout.split,
            "pool moments": 8 * self.sizes.pool / self.layout.split,
            "pool row gradients": (8 + 4 * columns) * (own + (0 if alone else merged)),
            "pool exchange": 0 if alone else min(2 * EXCHANGED_BYTES, self.gathered_rows()),
        }

    def activations(self) -> float:
        """Bytes that the backward pass of a micro-batch needs from its forward pass, without
        logits."""
        model, memory = self.config.model, self.config.model.memory
        tokens, sequence = self.micro_tokens, self.config.corpus.block_size
        layers = len(memory.layers) if self.sizes.pool else 0
        kept = KEPT_OF_A_TOKEN[self.config.pretraining.precision]
        attention = (kept.hidden + (kept.value if self.machine.is_gpu else 0)) * model.hidden_size
        if not self.machine.is_gpu:  # eager attention keeps all attention weights, fused attention a copy of its output
            attention += kept.square * model.num_attention_heads * sequence
        reads, width = memory.num_heads * memory.top_k, memory.num_heads * memory.key_dim
        # Slots and weights; with split columns, those of all tokens of the group.
        lookup = 12 * reads * (1 + (self.layout.split if self.layout.split > 1 else 0))
        lookup += (4 + kept.value * memory.query_norm) * width + (4 + 3 * kept.value) * memory.value_dim
        return tokens * (
            model.num_layers * attention
            + (model.num_layers - layers) * 4 * kept.value * model.intermediate_size
            + layers * lookup
            + kept.last * model.hidden_size
        )

    def logits(self) -> float:
        """Bytes of a micro-batch during the loss's backward pass: logits, their copy,
        log-probabilities and two gradients."""
        value = KEPT_OF_A_TOKEN[self.config.pretraining.precision].value
        return self.micro_tokens * self.vocab_size * (value + 12)

    def half_key_scores(self) -> float:
        """Bytes of one memory layer's scores for a micro-batch, in fp32, during the search."""
        memory = self.config.model.memory
        return 8.0 * self.micro_tokens * memory.num_heads * memory.num_half_keys if self.sizes.pool else 0.0

    # Network.

    def network(self) -> dict[str, float]:
        """Bytes that one device receives in a step, by part."""
        n, stage = self.layout.devices, self.config.pretraining.zero_stage
        others = (n - 1) / n
        engine = 4.0 * (self.sizes.base + (0 if self.is_lazy else self.sizes.pool))
        # DeepSpeed all-reduces its buckets up to ZeRO-2, which does so after each micro-batch;
        # ZeRO-3 reduces each share to its device.
        gradients = (2.0, 2.0, 2 * self.num_micro_batches, self.num_micro_batches)[stage]
        weights = (0.0, 1.0, 1.0, self.gathers())[stage]
        exchanged = {"gradients": gradients * others * engine, "weights": weights * others * engine}
        return exchanged | ({"pool row gradients": self.gathered_rows(), **self.split_reads()} if self.is_lazy else {})

    def gathers(self) -> float:
        """Number of times that ZeRO-3 gathers the mean weight in a step: small weights once, others
        in each micro-batch, and again for backward if the next use is far away."""
        model, memory, sizes = self.config.model, self.config.model.memory, self.sizes
        width = memory.num_heads * memory.key_dim
        matrices = {
            model.hidden_size**2: sizes.attention,
            model.hidden_size * model.intermediate_size: sizes.feed_forward,
            model.hidden_size * self.vocab_size: sizes.embeddings,
            model.hidden_size * max(width, memory.value_dim): sizes.memory_projections,
            memory.num_half_keys * width: sizes.half_keys,
            memory.num_slots * memory.value_dim: 0 if self.is_lazy else sizes.pool,
        }
        large = sum(held for elements, held in matrices.items() if elements > PERSISTENT_ELEMENTS)
        engine = sizes.base + (0 if self.is_lazy else sizes.pool)
        again = max(0.0, 1 - KEPT_ELEMENTS / (2 * engine))
        return (engine - large + large * self.num_micro_batches * (1 + again)) / engine

    def gathered_rows(self) -> float:
        """Bytes of row gradients, with their slots, from the other devices with the same
        columns."""
        columns = self.config.model.memory.value_dim / self.layout.split
        holders = self.layout.devices / self.layout.split
        return (holders - 1) * self.rows_read(self.rank_tokens * self.layout.split) * (8 + 4 * columns)

    def split_reads(self) -> dict[str, float]:
        """Bytes exchanged in a group: lookups of the other devices come in and their outputs go
        out; backward the same in reverse."""
        others, memory = self.layout.split - 1, self.config.model.memory
        layers = len(memory.layers)
        lookups = others * self.rank_tokens * self.reads
        rows = others / self.layout.split * self.rank_tokens * layers * memory.value_dim
        return {"pool lookups": lookups * (8 + 4 + 4), "pool outputs": rows * (4 + 4)}

    # Time.

    def row_bytes(self) -> dict[str, float]:
        """Bytes through one device's memory in a step, for work on rows."""
        if not self.sizes.pool:
            return {}
        value_dim, tables = self.config.model.memory.value_dim, self.sizes.pool
        # Forward, the rows that are read; backward, the same rows and as much of the output's
        # gradient.
        read = 3 * 4 * self.rank_tokens * self.reads * value_dim
        if not self.is_lazy:
            shared = self.layout.devices if self.config.pretraining.zero_stage else 1
            return {"weighted read": read, "pool optimizer": 28.0 * tables / shared + 8.0 * tables}
        moved = self.rows_read(self.step_tokens) * value_dim / self.layout.split
        # The gradient in; values and two moments in and out.
        return {"weighted read": read, "pool optimizer": 28.0 * moved}

    def seconds(self, utilisation: float) -> dict[str, float]:
        """Seconds of a step, by part."""
        machine, settings = self.machine, self.config.pretraining
        peak = {
            "product": machine.bf16_flops if settings.precision == "bf16" else machine.fp32_flops,
            "fp32 product": machine.fp32_flops,
        }
        products = sum(
            self.rank_tokens * part.step / (peak[part.unit] * utilisation)
            for part in self.work.values()
            if part.unit != "rows"
        )
        rows = sum(self.row_bytes().values()) / (machine.bandwidth * BANDWIDTH_REACHED)
        exchange = sum(self.network().values()) / (machine.link(self.layout.devices) * BANDWIDTH_REACHED)
        return {"products": products, "rows": rows, "network": exchange}

    def flops(self) -> float:
        """FLOPs of all steps on all devices."""
        return self.num_tokens * sum(part.step for part in self.work.values())

    def fits(self) -> bool:
        return sum(self.memory().values()) <= MEMORY_USED * self.machine.memory

    def state_bytes(self) -> float:
        """Bytes of one training state, from which a run can resume."""
        engine = self.sizes.base + (0 if self.is_lazy else self.sizes.pool)
        stage = self.config.pretraining.zero_stage
        return 4.0 * engine * (3 if stage in (0, 3) else 4) + (12.0 * self.sizes.pool if self.is_lazy else 0.0)


def distinct_rows(reads: float, num_slots: int) -> float:
    """Expected number of distinct slots in a number of reads, for log-normal shares."""
    shares = _shares_of_reads()
    return num_slots * sum(-math.expm1(-reads / num_slots * share) for share in shares) / len(shares)


@functools.cache
def _shares_of_reads(points: int = 256) -> list[float]:
    """Shares of slots at equal steps of their rank, as multiples of the mean."""
    normal = NormalDist(sigma=SPREAD_OF_READS)
    shares = [math.exp(normal.inv_cdf((number + 0.5) / points)) for number in range(points)]
    return [share * points / sum(shares) for share in shares]


def lay_out(
    config: Config,
    architecture: Architecture,
    machine: Machine,
    devices: int,
    *,
    num_tokens: float,
    vocab_size: int = 0,
    split: int = 0,
) -> tuple[Pretraining, list[str]]:
    """Lay out the recipe's batch on a number of devices, with the largest micro-batch that fits;
    returns the plan and notes on changes.

    The columns of the pools are split over `split` devices; 0 means the recipe's split or, if it
    has none, the fewest devices that have room.
    """
    settings, notes = config.pretraining, []
    wanted = 1 if architecture == "dense" else settings.pool_split
    if wanted > 1 and devices % wanted == 0:
        split = split or wanted
    batch = math.ceil(settings.batch_blocks / devices) * devices
    if batch != settings.batch_blocks:
        notes.append(f"{settings.flaw_of(devices)}; planned with {batch}: fewer steps, the same tokens")
    micros = [
        size
        for size in range(min(batch // devices, settings.micro_batch_blocks), 0, -1)
        if batch // devices % size == 0
    ]
    plan = Pretraining(
        config=config,
        architecture=architecture,
        machine=machine,
        layout=Layout(devices=devices, batch_blocks=batch, micro_blocks=micros[-1], split=split or 1),
        num_tokens=num_tokens,
        vocab_size=vocabulary_of(config, vocab_size),
    )
    if plan.is_lazy and not split:
        plan = next((each for each in splits(plan) if each.fits()), splits(plan)[-1])
        if plan.layout.split != wanted and (wanted > 1 or plan.fits()):
            why = (
                "the fewest that hold the pools" if wanted == 1 else f"as {devices} devices are no multiple of {wanted}"
            )
            notes.append(f"pretraining.pool_split {wanted} -> {plan.layout.split}, {why}")
    for micro in micros:
        larger = replace(plan, layout=replace(plan.layout, micro_blocks=micro))
        if larger.fits():
            plan = larger
            break
    if plan.layout.micro_blocks != settings.micro_batch_blocks:
        notes.append(
            f"pretraining.micro_batch_blocks {settings.micro_batch_blocks} -> {plan.layout.micro_blocks}, "
            "the largest that divides the batch and fits"
        )
    return plan, notes


def splits(plan: Pretraining) -> list[Pretraining]:
    """Plans with the columns split over more and more devices: powers of two that divide both
    numbers."""
    found, number = [], 1
    while plan.layout.devices % number == 0 and plan.config.model.memory.value_dim % number == 0:
        found.append(replace(plan, layout=replace(plan.layout, split=number)))
        number *= 2
    return found
