"""Settings of pretraining, counting and the analysis of slots. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from memlm.identity import execution_only, names_result
from memlm.kinds import READS_KIND

EXCHANGED_BYTES = 1 << 28
"""Bytes of row gradients that a rank receives at once. The rows of many ranks together could be
many times the table."""


def _has_fixed_keys(settings: "PretrainingConfig") -> bool:
    return settings.keys != "trained"


def _distils(settings: "PretrainingConfig") -> bool:
    return settings.distillation_weight > 0


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """AdamW with warm-up and cosine decay, and lazy Adam for the pools. DeepSpeed's own settings
    are derived from these."""

    num_steps: int = names_result(1000)
    """Steps; with model.base, those of its memory, and 0 for keys that are only fitted."""
    batch_blocks: int = names_result(32)
    """Blocks of one optimizer step, over all workers and micro-batches."""
    micro_batch_blocks: int = execution_only(32)
    """Blocks that one worker runs at once."""
    learning_rate: float = names_result(2e-3)
    value_learning_rate: float = names_result(5e-3, only=("memory",))
    """Learning rate of the value pools. Each of their rows gets a gradient in few steps (Berges et
    al. 2024 also use a separate rate)."""
    final_learning_rate: float = names_result(0.1)
    """Learning rate at the end of the cosine, as a share of the peak."""
    pool_optimizer: Literal["lazy_adam", "adamw"] = names_result("lazy_adam", only=("memory",))
    """Optimizer of the value pools. lazy_adam updates only the rows that a step's batch reads, so
    the cost of a step does not grow with the pool; adamw updates all rows by their momentum. Over
    three seeds adamw is better by 0.01 on known facts (docs/speed.md), and its step at a million
    slots takes three times as long."""
    pool_split: int = execution_only(1)
    """Number of neighbouring workers over which the columns of each pool are split; 1 for no split.
    Requires lazy_adam, and changes no result beyond rounding. Split a pool whose values and two
    moments do not fit a worker: each worker then holds 12 bytes x slots x model.memory.value_dim
    / pool_split, and sends one row of values per token, forward and backward."""
    warmup_steps: int = names_result(50)
    weight_decay: float = names_result(0.1)
    """Weight decay of matrices; values, norms and biases have none."""
    clip_norm: float = names_result(1.0)
    precision: Literal["fp32", "bf16"] = names_result("fp32")
    """fp32, or bf16: autocast over fp32 weights. A frozen base is held in the same type."""
    zero_stage: Literal[0, 1, 2, 3] = execution_only(0)
    """Stage of DeepSpeed ZeRO: which parts of the training state are divided among the workers. 0:
    none, the fastest if everything fits (16 bytes per parameter: weight, gradient and two moments
    in fp32; the paper's 1.3 B base takes 21 GB). 1: the moments (8 bytes, and 8 divided by the
    workers), at the cost of gathering the weights after each step; the first choice if 0 does not
    fit. 2: gradients too (4 bytes, and 12 divided by the workers), useful with one micro-batch
    per step. 3: weights too (16 bytes divided by the workers), gathered layer by layer in each
    pass: half as much traffic again, for bases that fit no other way. Does not apply to pools
    trained by lazy_adam. All four give the same curve up to rounding (tests/training/pretraining/,
    on two workers), and a run may continue at another stage."""
    checkpoint_every: int = execution_only(500)
    """Steps between two training states. The interval that loses the least time is the square root
    of 2 x seconds per save x mean seconds between failures (Young 1974). `seconds_saving` of the
    goodput gives the cost of saving: uploads run while training continues."""
    log_every: int = execution_only(50)
    seed: int = names_result(0)
    """Seed of the initial weights and of the order of the blocks."""
    keys: Literal["trained", "fixed"] = names_result("trained", only=("memory",), when=_has_fixed_keys)
    """With model.base: whether the memory's queries and half-keys are trained, too, or stay as they
    were fitted to the corpus."""
    distillation_weight: float = names_result(0.0, only=("memory",), when=_distils)
    """With model.base: weight of the divergence from the base's own predictions, KL(base || model)
    in nats per token, which is added to the loss; 0 for none. It keeps the memory from adapting the
    base to the corpus's style."""
    distillation_temperature: float = names_result(1.0, only=("memory",), when=_distils)
    """Temperature of both predictions; the divergence is multiplied by its square."""
    control: bool = execution_only(False)
    """With model.base: also train the control, a dense network in the memory's place that computes
    as much per token, on the same text, and measure it."""

    @property
    def divergence_remedy(self) -> str:
        return (
            f"lower pretraining.learning_rate ({self.learning_rate}) or "
            f"pretraining.value_learning_rate ({self.value_learning_rate})"
        )

    def value_tables(self, num_workers: int) -> tuple[int, str]:
        """The minimum number of matrices of a pool's size that one worker holds, and their
        names."""
        if self.pool_optimizer == "lazy_adam":
            return 3, "values and two moments"
        if self.zero_stage and num_workers > 1:
            return 2, "values, and a share of gradient and two moments"
        return 4, "values, gradient and two moments"

    def __post_init__(self) -> None:
        for name in ("batch_blocks", "micro_batch_blocks", "checkpoint_every", "log_every", "pool_split"):
            if getattr(self, name) < 1:
                raise ValueError(f"pretraining.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "value_learning_rate", "clip_norm", "distillation_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"pretraining.{name} is {getattr(self, name)}; it must be above 0")
        if self.pool_split > 1 and self.pool_optimizer != "lazy_adam":
            raise ValueError(
                f'pretraining.pool_split is {self.pool_split} and pretraining.pool_optimizer "{self.pool_optimizer}"; only "lazy_adam" trains a '
                "pool that is split over workers, so set it, or pretraining.pool_split to 1"
            )
        for name in ("num_steps", "warmup_steps", "final_learning_rate", "weight_decay", "distillation_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"pretraining.{name} is {getattr(self, name)}; it must not be negative")
        self.require_workers(1)

    def require_workers(self, num_workers: int) -> None:
        """Raises ValueError, with batches and micro-batches that would work, if a step's batch
        cannot be divided among the workers."""
        if flaw := self.flaw_of(num_workers):
            raise ValueError(flaw)

    def flaw_of(self, num_workers: int) -> str:
        """The reason why a step's batch cannot be divided among the workers, with sizes that can;
        empty if it can be divided."""
        if self.batch_blocks % (self.micro_batch_blocks * num_workers) == 0:
            return ""
        rule = "is not a multiple of pretraining.micro_batch_blocks"
        if num_workers > 1:
            rule += f" ({self.micro_batch_blocks}) times cluster.num_workers ({num_workers})"
        else:
            rule += f" ({self.micro_batch_blocks})"
        return f"pretraining.batch_blocks is {self.batch_blocks}, which {rule}; {self._division(num_workers)}"

    def _division(self, num_workers: int) -> str:
        """Settings with which every worker runs equally many complete micro-batches."""
        per_worker, rest = divmod(self.batch_blocks, num_workers)
        if not rest:
            return f"set pretraining.micro_batch_blocks to {self._micro_batch(per_worker)}"
        nearest = [each for each in (per_worker + 1, per_worker) if each]
        batches = [
            f"pretraining.batch_blocks to {each * num_workers} with pretraining.micro_batch_blocks {self._micro_batch(each)}"
            for each in nearest
        ]
        return f"set {', or '.join(batches)}"

    def _micro_batch(self, blocks: int) -> int:
        """The largest micro-batch that divides a worker's blocks and is no larger than the one
        asked for."""
        return max(size for size in range(1, min(blocks, self.micro_batch_blocks) + 1) if blocks % size == 0)


@dataclass(frozen=True, kw_only=True)
class CountingConfig:
    """The background that slots are ranked against (Lin et al. 2025, section 4: 1,000 random
    batches of DCLM)."""

    num_batches: int = names_result(1000)
    """Micro-batches counted, drawn at random from the corpus; fewer if the corpus ends first."""
    batch_blocks: int = names_result(2)
    """Blocks per micro-batch. The paper does not state the size. Larger micro-batches protect
    common slots more: a slot that every micro-batch reads has a TF-IDF of 0."""
    batches_per_unit: int = execution_only(50)
    """Micro-batches that one task counts and commits together."""
    max_attempts: int = execution_only(3)
    """Workers that a unit may kill before it is quarantined and not tried again. Deaths of the
    driver do not count."""
    max_quarantined: int = execution_only(0)
    """Units that may be quarantined before the job fails; they are named in the counts or reads,
    and left out of them."""
    seed: int = names_result(0)
    read_tokens: int = names_result(65_536, only=(READS_KIND,))
    """Tokens whose reads are kept, slot by slot with their weights, for methods
    that need to know what background text reads together, and where it matters. They come from the
    first micro-batches; the last of these is read whole, so there may be a few more tokens. What
    none of these tokens says is not spared: take enough of them to hold every fact that counts."""
    sensitivities: bool = names_result(True, only=(READS_KIND,), when=lambda counting: not counting.sensitivities)
    """Whether the sensitivities are measured too, which only the step by curvature needs. They take
    a backward pass: several times as long as the reads alone if the memory layer is low."""

    def __post_init__(self) -> None:
        for name in ("num_batches", "batch_blocks", "batches_per_unit", "max_attempts", "read_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"counting.{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_quarantined < 0:
            raise ValueError(f"counting.max_quarantined is {self.max_quarantined}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """Settings of analyze_slots, which finds how many slots a fact needs and which tokens read them
    (Lin et al. 2025, section 6)."""

    num_facts: int = names_result(20)
    """Number of facts per seed, the first ones of its stream."""
    num_seeds: int = names_result(3)
    """Number of streams: that of the seed, and those of the seeds after it."""
    slot_counts: tuple[int, ...] = names_result((25, 50, 100, 200, 500))
    """Numbers of trainable slots to try, in ascending order."""
    num_steps: int = names_result(100)
    """Steps on one fact, after which it is asked."""
    num_read_facts: int = names_result(100)
    """Number of facts per seed whose tokens are analysed."""
    read_slot_counts: tuple[int, ...] = names_result((100, 500))
    """Numbers of trainable slots for which the trainable reads of each token are counted."""
    num_page_facts: int = names_result(8)
    """How many of the first facts have their texts on the token page, here and in a traced
    finetune; 0 for no page."""

    def __post_init__(self) -> None:
        for name in ("num_facts", "num_seeds", "num_steps", "num_read_facts"):
            if getattr(self, name) < 1:
                raise ValueError(f"analysis.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("slot_counts", "read_slot_counts"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"analysis.{name} is {getattr(self, name)}; it must name at least one number, all above 0"
                )
        if self.num_page_facts < 0:
            raise ValueError(
                f"analysis.num_page_facts is {self.num_page_facts}; it must not be negative (0 for no page)"
            )
