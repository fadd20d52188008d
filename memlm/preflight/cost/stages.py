"""Cost of each stage of a recipe on a number of devices: work, memory, exchange, time, storage and
trials."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from memlm.config import Config
from memlm.data import dclm
from memlm.data.config import DocumentStreamConfig
from memlm.methods.config import MethodConfig, SlotMethodConfig
from memlm.preflight.cost import bases
from memlm.preflight.cost.goodput import GPU_HOURS_PER_FAILURE, goodput
from memlm.preflight.cost.machines import Machine
from memlm.preflight.cost.model import PlanError, vocabulary_of, work_of
from memlm.preflight.cost.training import BANDWIDTH_REACHED, Pretraining, lay_out, splits

TOKENS_OF_WORLD_DOCUMENT = 83
"""Tokens of a document of the generated world, in its own vocabulary: 23,474 blocks of 128 tokens
for 36,000 documents, measured."""
PACKED_PER_CORE = 120e3
"""Tokens per second that one core decompresses, tokenises and packs. Measured on `wiki`: 114 s,
most of them for one shard of 10.6 M tokens."""
CHECKPOINT_RATE = 1e9
"""Bytes per second at which one device writes its share of a training state to storage, or reads
and verifies the whole state."""
KEPT_STATES = 3
"""Training states on storage: two complete ones, and one being written."""
LEDGER_BYTES = 15e3
"""Bytes of a finished trial's ledger entry."""
STATEMENT_TOKENS, PROMPT_TOKENS = 24, 48
"""Tokens of a fact's statement, and of a question with its examples."""
SHARE_DISTINCT = 0.35
"""Distinct slots among the reads of a fact's statements: 1,613 of 4,576 on `laptop`, measured."""
SET_SIZES = {
    "nq_open": 3_610,
    "triviaqa": 17_944,
    "gsm8k": 1_319,
    "hellaswag": 10_042,
    "simpleqa": 4_326,
    "entityquestions": 22_068,
}
"""Questions in each published evaluation set, for a recipe that uses all of one."""
CHUNKS = 1_824
"""Chunks of the documents that the paper streams (Lin et al. 2025, section 5.2). Another file's
count is only known after reading it."""
ANSWERING_CHUNKS = 2
"""Chunks of a document that answer a question, at most for most documents."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Assumptions of a plan that the recipe does not state."""

    utilisation: float = 0.35
    """Share of a device's peak that matrix products reach. Row reads and the network are added."""
    failures_per_gpu_hour: float = 1 / GPU_HOURS_PER_FAILURE
    vocab_size: int = 0
    """0 to take it from the recipe's tokenizer."""
    split: int = 0
    """Devices over which a pool's columns are split; 0 for the recipe's pretraining.pool_split, or,
    if that is 1, for the fewest devices that have room."""
    corpus_tokens: float = 0.0
    """Tokens of a corpus that pretraining reads once; 0 for the recipe's own corpus and number of
    steps."""
    num_chunks: int = 0
    """Chunks of all documents to learn; 0 if they are not counted."""

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise PlanError(
                f"--utilisation is {self.utilisation}; it is a share of the peak, above 0 and at most 1 (0.35 to 0.5 are usual)"
            )
        if not 0 <= self.failures_per_gpu_hour < 1:
            raise PlanError(
                f"--failures-per-gpu-hour is {self.failures_per_gpu_hour}; it must be at least 0 and below 1 (Llama 3's was 1/50,700)"
            )
        for name in ("corpus_tokens", "vocab_size", "split"):
            if getattr(self, name) < 0:
                raise PlanError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must not be negative (0 or no option means the recipe's)"
                )


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One line of a plan."""

    section: str
    name: str
    value: float
    unit: str


Trials = Mapping[MethodConfig, int]
"""Settings of the sweep, with the number of seeds of each."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe on a number of devices of one kind."""

    config: Config
    assumptions: Assumptions
    trials: Trials
    memory: Pretraining
    dense: Pretraining
    notes: tuple[str, ...]

    def quantities(self) -> list[Quantity]:
        return [
            Quantity(section=section, name=name, value=float(value), unit=unit)
            for section, unit, lines in (
                ("layout", "", self.layout()),
                ("parameters", "", self.parameters()),
                ("memory per device", "B", self.memory_lines()),
                ("FLOPs per token", "FLOP", self.work_lines()),
                ("network per device and step", "B", self.network_lines()),
                ("step", "s", self.step_lines()),
                ("pretraining", "", self.run_lines()),
                ("stages on CPUs", "core-h", self.preparation_lines()),
                ("stages on devices", "device-h", self.stage_lines()),
                ("sweep", "", self.sweep_lines()),
                ("storage", "B", self.storage_lines()),
            )
            for name, value in lines.items()
        ]

    def layout(self) -> dict[str, float]:
        layout = self.memory.layout
        return {
            "devices": layout.devices,
            "slots of a pool": self.config.model.memory.num_slots,
            "tokens of the corpus": self.corpus_tokens,
            "shards of the corpus": self.corpus_shards,
            "blocks of a step": layout.batch_blocks,
            "blocks of a micro-batch": layout.micro_blocks,
            "devices that share a pool's columns": layout.split,
            "fits": self.memory.fits() and self.dense.fits(),
        }

    def parameters(self) -> dict[str, float]:
        sizes = self.memory.sizes
        return {
            "base": sizes.base,
            "pool": sizes.pool,
            "active for a token": sizes.active,
            "of the base, half-keys": sizes.half_keys,
            "dense twin": self.dense.sizes.base,
        }

    def memory_lines(self) -> dict[str, float]:
        parts = self.memory.memory()
        return {**parts, "total": sum(parts.values()), "device": self.memory.machine.memory}

    def work_lines(self) -> dict[str, float]:
        parts = {name: part.step for name, part in self.memory.work.items()}
        return {
            **parts,
            "total": sum(parts.values()),
            "dense twin": sum(part.step for part in self.dense.work.values()),
        }

    def network_lines(self) -> dict[str, float]:
        parts = self.memory.network()
        return {**parts, "total": sum(parts.values())}

    def step_lines(self) -> dict[str, float]:
        parts = self.memory.seconds(self.assumptions.utilisation)
        return {**parts, "total": sum(parts.values())}

    def run_lines(self) -> dict[str, float]:
        plan = self.memory
        seconds = plan.num_steps * sum(plan.seconds(self.assumptions.utilisation).values())
        found = goodput(
            devices=plan.layout.devices,
            save_seconds=plan.state_bytes() / plan.layout.devices / CHECKPOINT_RATE,
            load_seconds=plan.state_bytes() / CHECKPOINT_RATE,
            failures_per_device_hour=self.assumptions.failures_per_gpu_hour,
        )
        products = plan.rank_tokens * plan.layout.devices * sum(part.step for part in plan.work.values())
        peak = plan.machine.bf16_flops if plan.config.pretraining.precision == "bf16" else plan.machine.fp32_flops
        step = sum(plan.seconds(self.assumptions.utilisation).values())
        return {
            "tokens": plan.num_tokens,
            "passes over the corpus": plan.num_tokens / self.corpus_tokens,
            "steps": plan.num_steps,
            "FLOP": plan.flops(),
            "tokens per second": plan.step_tokens / step,
            "utilisation over the whole step": products / (plan.layout.devices * peak * step),
            "hours without a failure": seconds / 3600,
            "hours between failures": found.hours_between_failures,
            "minutes between states (Young/Daly)": found.interval_seconds / 60,
            "steps between states": found.interval_seconds / step,
            "goodput": found.share,
            "hours": seconds / 3600 / found.share if found.share else math.inf,
        }

    def preparation_lines(self) -> dict[str, float]:
        return {"prepare_corpus": self.corpus_tokens / PACKED_PER_CORE / 3600}

    def stage_lines(self) -> dict[str, float]:
        run, dense = self.run_lines(), self._hours(self.dense)
        learning, scoring = self._learning_hours, self._scoring_hours()
        sweep = sum(seeds * (learning(setting) + scoring) for setting, seeds in self.trials.items())
        return {
            "pretrain memory": run["hours"] * self.memory.layout.devices,
            "pretrain dense": dense * self.memory.layout.devices,
            "count_accesses": self._counting_hours(self._counted_tokens) + self.reading_hours(),
            "finetune and score, one trial": learning(self.config.method) + scoring,
            "pareto_sweep": sweep,
        }

    def sweep_lines(self) -> dict[str, float]:
        names = {setting.label for setting in self.trials}
        counted = {
            f"trials of {name}": sum(seeds for setting, seeds in self.trials.items() if setting.label == name)
            for name in sorted(names)
        }
        return {**counted, "trials": sum(self.trials.values())}

    def storage_lines(self) -> dict[str, float]:
        sizes, memory, stream = self.memory.sizes, self.config.model.memory, self.config.stream
        slots, tokens = memory.num_slots * memory.num_pools, self.corpus_tokens
        units = math.ceil(self.config.counting.num_batches / self.config.counting.batches_per_unit)
        steps = _num_texts(self.config, self.assumptions) * stream.num_passes
        method = self.config.method
        rows = min(slots, steps * method.num_trainable_slots or slots) if isinstance(method, SlotMethodConfig) else 0
        return {
            "corpus shards, read": tokens / dclm.TOKENS_PER_BYTE,
            "token blocks": tokens * bytes_of_token(self.config, self.memory.vocab_size),
            "checkpoint, memory": 4.0 * (sizes.base + sizes.pool),
            "checkpoint, dense": 4.0 * self.dense.sizes.base,
            "training states": KEPT_STATES * self.memory.state_bytes(),
            "a node's own copies, pretraining": tokens * bytes_of_token(self.config, self.memory.vocab_size)
            + self.memory.state_bytes(),
            "counts": 24.0 * slots,
            "partial counts": 24.0 * slots * units,
            "background reads": 4.0 * self._read_tokens * len(memory.layers) * (2 * memory.num_heads * memory.top_k + 1)
            + 8.0 * memory.num_pools * memory.value_dim**2,
            "a patch, at most": rows * (8.0 + 8 * memory.value_dim),
            "ledger": LEDGER_BYTES * sum(self.trials.values()),
        }

    def with_each(self, change: Callable[[Pretraining], Pretraining]) -> "Plan":
        """Plan with the same change in both architectures."""
        return replace(self, memory=change(self.memory), dense=change(self.dense))

    def _hours(self, plan: Pretraining) -> float:
        return plan.num_steps * sum(plan.seconds(self.assumptions.utilisation).values()) / 3600

    @property
    def corpus_tokens(self) -> float:
        known = self.assumptions.corpus_tokens or corpus_tokens(self.config)
        return known or self.memory.num_tokens or self._counted_tokens  # where nothing is pretrained

    @property
    def corpus_shards(self) -> float:
        """Shards of the corpus if it is DCLM; 0 if the number is unknown."""
        return (
            round(self.corpus_tokens * dclm.NUM_SHARDS / dclm.NUM_TOKENS)
            if dclm.is_dclm(self.config.corpus.path)
            else 0
        )

    def _device_hours(self, flops: float) -> float:
        machine = self.memory.machine
        peak = machine.bf16_flops if self.config.pretraining.precision == "bf16" else machine.fp32_flops
        return flops / (peak * self.assumptions.utilisation) / 3600

    @property
    def _counted_tokens(self) -> int:
        counting = self.config.counting
        return counting.num_batches * counting.batch_blocks * self.config.corpus.block_size

    @property
    def _read_tokens(self) -> int:
        """Tokens whose reads are kept."""
        return min(self.config.counting.read_tokens, self._counted_tokens)

    def reading_hours(self) -> float:
        """Device hours of keeping the background reads alone, for a run that has counts: a forward
        pass, and backward to the output of the first memory layer's read; without sensitivities, a
        forward pass to the last search."""
        layers = self.config.model.memory.layers
        if not layers:
            return 0.0
        if not self.config.counting.sensitivities:
            return self._counting_hours(self._read_tokens)
        forward = sum(part.forward for part in self.memory.work.values())
        above = 1 - (layers[0] + 1) / self.config.model.num_layers
        return self._device_hours(self._read_tokens * forward * (1 + above))

    def _counting_hours(self, tokens: int) -> float:
        """Device hours of counting tokens: a forward pass up to the last memory layer's search."""
        layers = self.config.model.memory.layers
        if not layers:
            return 0.0
        share = (layers[-1] + 1) / self.config.model.num_layers
        work = self.memory.work
        lower = share * sum(work[name].forward for name in ("attention", "attention scores", "feed-forward"))
        return self._device_hours(tokens * (lower + work["half-key scores"].forward))

    def _learning_hours(self, setting: MethodConfig) -> float:
        """Device hours of one trial's stream. Work that a sweep does once for all trials is counted
        in each."""
        if setting.moves == "nothing":
            return 0.0
        model, stream = self.config.model, self.config.stream
        stated = bases.STATEMENT_TOKENS if model.base else STATEMENT_TOKENS
        documents = self.config.questions.documents
        whole_chunks = documents is not None and not documents.restates_sentences
        length = stream.max_length if whole_chunks else min(stream.max_length, stated)
        tokens = _num_texts(self.config, self.assumptions) * stream.num_passes * stream.num_wordings * length
        work = work_of(model, self.memory.vocab_size, length, setting.base)
        forward = sum(part.forward for part in work.values())
        if setting.moves == "values":  # backward ends at the first memory layer's rows
            above = 1 - (model.memory.layers[0] + 1) / model.num_layers if model.memory.layers else 0.0
            factors = self._factor_flops(setting, stream.num_wordings * length) if setting.uses_reads else 0.0
            return self._device_hours(tokens * forward * (1 + above) + factors)
        return self._device_hours(tokens * forward * (3 if setting.moves == "everything" else 2))

    def _factor_flops(self, setting: MethodConfig, tokens: int) -> float:
        """Operations of one Cholesky factor per fact or chunk, of the rows that it moves, and of
        its solve for each of its tokens. It is kept from pass to pass."""
        memory = self.config.model.memory
        rows = getattr(setting, "num_trainable_slots", 0) or SHARE_DISTINCT * tokens * memory.num_heads * memory.top_k
        rows = min(rows, memory.num_slots * memory.num_pools)
        return _num_texts(self.config, self.assumptions) * (rows**3 / 3 + 2 * rows**2 * min(rows, tokens))

    def _scoring_hours(self) -> float:
        """Device hours of one pass over all sets: reading the prompts twice, for the likelihood of
        the right answers and for the model's own, and writing these token by token, where each
        token costs one read of all weights."""
        evaluation, machine = self.config.evaluation, self.memory.machine
        work = work_of(self.config.model, self.memory.vocab_size, PROMPT_TOKENS, "memory")
        forward = sum(part.forward for part in work.values())
        if self.config.model.base:
            return self._device_hours(
                bases.scored_tokens(self.config, _num_texts(self.config, self.assumptions)) * forward
            )
        weights = 4 * self.memory.sizes.active / (machine.bandwidth * BANDWIDTH_REACHED) / 3600
        hours = self._device_hours(evaluation.num_text_blocks * self.config.corpus.block_size * forward)
        for questions, answer in _questions(self.config, self.assumptions):
            hours += self._device_hours(2 * questions * (PROMPT_TOKENS + answer) * forward)
            hours += math.ceil(questions / evaluation.batch_size) * answer * weights
        return hours


def corpus_tokens(config: Config) -> float:
    """Tokens of the recipe's corpus; 0 if they are unknown before its files are read."""
    if config.world is not None:
        return float(config.world.num_documents * TOKENS_OF_WORLD_DOCUMENT)
    if not dclm.is_dclm(config.corpus.path):
        return 0.0
    sampled = dclm.NUM_SHARDS * config.corpus.fraction
    return dclm.NUM_TOKENS * min(sampled, config.corpus.max_shards or sampled) / dclm.NUM_SHARDS


def bytes_of_token(config: Config, vocab_size: int) -> float:
    """Bytes per token in a compressed Parquet file of blocks: 0.92 in the generated world, which is
    repetitive; in text, proportional to the vocabulary's bits, 1.86 with 4,096 tokens on
    Wikipedia. Both measured."""
    return 0.92 if config.world is not None else 0.155 * math.log2(vocab_size)


def _num_texts(config: Config, assumptions: Assumptions) -> int:
    """Facts or chunks that a stream learns in one pass."""
    if not isinstance(config.stream, DocumentStreamConfig):
        return config.stream.num_facts
    documents, number = config.questions.documents, config.stream.num_documents
    if documents is not None and documents.augmenter == "given" and number:
        return number  # each is one chunk
    if documents is not None and documents.answering_chunks_only and number:
        return number * ANSWERING_CHUNKS
    return assumptions.num_chunks or CHUNKS


def _questions(config: Config, assumptions: Assumptions) -> list[tuple[int, int]]:
    """Number of questions of each set, and tokens of an answer."""
    evaluation = config.evaluation
    sets = [(_num_texts(config, assumptions), evaluation.max_new_tokens)]
    for held_out in config.questions.held_out:
        solved = held_out.layout == "gsm8k"
        known = SET_SIZES.get(held_out.layout, SET_SIZES["nq_open"])
        if config.world is not None:
            known = config.world.num_known
        sets.append(
            (held_out.num_questions or known, evaluation.max_solution_tokens if solved else evaluation.max_new_tokens)
        )
    return sets


def make_plan(config: Config, machine: Machine, devices: int, assumptions: Assumptions, trials: Trials) -> Plan:
    """Plan of a recipe. Raises PlanError for options that cannot be planned."""
    if devices < 1:
        raise PlanError(f"--gpus is {devices}; it must be at least 1")
    settings = config.pretraining
    tokens = assumptions.corpus_tokens or settings.num_steps * settings.batch_blocks * config.corpus.block_size
    vocab_size = vocabulary_of(config, assumptions.vocab_size)
    split, value_dim = assumptions.split, config.model.memory.value_dim
    if split and (devices % split or value_dim % split):
        raise PlanError(
            f"--split is {split}; it must divide the {devices} devices and the {value_dim} columns of model.memory.value_dim"
        )
    memory, notes = lay_out(config, "memory", machine, devices, num_tokens=tokens, vocab_size=vocab_size, split=split)
    dense, _ = lay_out(config, "dense", machine, devices, num_tokens=tokens, vocab_size=vocab_size)
    return Plan(
        config=config,
        assumptions=assumptions,
        trials=trials,
        memory=memory,
        dense=dense,
        notes=(*notes, *_misfit(memory), *_faster_split(memory, assumptions.utilisation), *_repeated(config)),
    )


def _repeated(config: Config) -> list[str]:
    """Note on a sweep of several checkpoints, whose stages before the trials are planned once."""
    checkpoints = config.sweep.checkpoints
    if not checkpoints:
        return []
    return [
        f"sweep.checkpoints is {checkpoints}: corpus, pretraining and counting are made {len(checkpoints)} times, and their lines are those of one; "
        "the lines of the sweep are those of all"
    ]


def _misfit(plan: Pretraining) -> list[str]:
    if plan.fits():
        return []
    needed, device = sum(plan.memory().values()), plan.machine.memory
    fitting = [each.layout.split for each in splits(plan) if each.fits()] if plan.is_lazy else []
    if fitting:
        return [
            f"does not fit: with the columns of the pools split over {plan.layout.split}, each needs {needed / 1e9:,.0f} GB and has "
            f"{device / 1e9:,.0f} GB. Split them over {fitting[0]} (--split {fitting[0]}, and --pretraining.pool-split {fitting[0]} in the run)"
        ]
    return [
        f"does not fit: with the columns of the pools split over {plan.layout.split}, each needs "
        f"{needed / 1e9:,.0f} GB and has {device / 1e9:,.0f} GB. At most {plan.config.model.memory.value_dim} devices "
        "(model.memory.value_dim) can share columns: take more devices or larger ones, fewer slots, or a smaller micro-batch"
    ]


def _faster_split(plan: Pretraining, utilisation: float) -> list[str]:
    """Note on a faster split than the one with the fewest devices, if there is one."""
    seconds = {each.layout.split: sum(each.seconds(utilisation).values()) for each in splits(plan) if each.fits()}
    if not plan.is_lazy or plan.layout.split not in seconds:
        return []
    best = min(seconds, key=lambda split: seconds[split])
    if seconds[best] > 0.9 * seconds[plan.layout.split]:
        return []
    return [
        f"with the columns of the pools over {best} devices (--split {best}) a step takes {seconds[best]:.3g} s "
        f"instead of {seconds[plan.layout.split]:.3g} s: fewer devices then merge their row gradients"
    ]
