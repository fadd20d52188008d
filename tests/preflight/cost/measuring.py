"""Measurements to compare a plan with: parameters, FLOPs, kept activations, and the memory, traffic
and saved states of two gloo ranks."""

import gc
import inspect
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from memlm.config import ClusterConfig, Config
from memlm.data.corpus.blocks import Blocks, write_blocks
from memlm.data.corpus.config import CorpusConfig
from memlm.model.column_split import ColumnSplit, split_over_ranks
from memlm.model.config import Architecture, MemoryConfig, ModelConfig
from memlm.model.language_model import MemoryLlamaForCausalLM, build_model, model_config
from memlm.preflight.cost import training as planning
from memlm.preflight.cost.machines import MACHINES
from memlm.preflight.cost.training import Layout, Pretraining
from memlm.recipes.laptop import LAPTOP_MODEL
from memlm.training.config import PretrainingConfig
from memlm.training.step import next_token_loss

VOCAB_SIZE, EOS, PAD = 512, 510, 511
SMALL = Config(
    recipe="small",
    corpus=CorpusConfig(vocab_size=VOCAB_SIZE, block_size=64),
    model=ModelConfig(
        num_layers=3,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=176,
        max_positions=256,
        memory=MemoryConfig(
            layers=(1,), num_half_keys=48, top_k=8, num_heads=2, key_dim=32, value_dim=96, query_norm=True
        ),
    ),
    pretraining=PretrainingConfig(num_steps=100, batch_blocks=8, micro_batch_blocks=2, log_every=100),
    cluster=ClusterConfig(num_workers=2),
)
ALONE = replace(
    SMALL,
    corpus=CorpusConfig(vocab_size=VOCAB_SIZE, block_size=128),
    model=LAPTOP_MODEL,
    pretraining=replace(SMALL.pretraining, batch_blocks=8, micro_batch_blocks=8),
    cluster=ClusterConfig(num_workers=1),
)
LARGER = replace(
    ALONE,
    model=replace(
        LAPTOP_MODEL,
        num_layers=7,
        intermediate_size=480,
        memory=replace(LAPTOP_MODEL.memory, layers=(3,), num_half_keys=256),
    ),
    pretraining=replace(ALONE.pretraining, batch_blocks=12, micro_batch_blocks=12),
)
"""Shape other than the one used to measure the utilisation."""
STAGES = (0, 1, 2, 3)


def pretraining_of(
    config: Config, *, architecture: Architecture = "memory", machine: str = "cpu", devices: int = 1
) -> Pretraining:
    settings = config.pretraining
    return Pretraining(
        config=config,
        architecture=architecture,
        machine=MACHINES[machine],
        layout=Layout(devices=devices, batch_blocks=settings.batch_blocks, micro_blocks=settings.micro_batch_blocks),
        num_tokens=float(settings.num_steps * settings.batch_blocks * config.corpus.block_size),
        vocab_size=config.corpus.vocab_size,
    )


def model_of(
    config: Config, *, dense: bool = False, attention: str = "eager", split: ColumnSplit | None = None
) -> MemoryLlamaForCausalLM:
    shape = model_config(config.model, dense=dense, vocab_size=config.corpus.vocab_size, eos_id=EOS, pad_id=PAD)
    return build_model(shape, seed=0, attention=attention, split=split).train()


def blocks_in(folder: str, config: Config) -> Blocks:
    path = Path(folder, f"blocks_{config.corpus.block_size}.parquet")
    if not path.exists():
        random = np.random.default_rng(0)
        rows = random.integers(0, EOS, (64, config.corpus.block_size)).astype(np.int32)
        own = path.with_name(f"{os.getpid()}_{path.name}")  # two ranks may be here at once
        write_blocks(str(own), list(rows))
        own.rename(path)
    return Blocks([str(path)])


def tokens_of_micro_batch(config: Config) -> Tensor:
    shape = (config.pretraining.micro_batch_blocks, config.corpus.block_size)
    return torch.randint(0, EOS, shape, generator=torch.Generator().manual_seed(1))


def loss_of(model: MemoryLlamaForCausalLM, tokens: Tensor, *, bf16: bool = False) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=tokens, use_cache=False).logits
    return next_token_loss(logits, tokens, torch.ones_like(tokens, dtype=torch.bool))


def counted_flops(config: Config, *, dense: bool = False) -> int:
    """FLOPs in matrix products of a forward and a backward pass over a micro-batch."""
    model, tokens = model_of(config, dense=dense), tokens_of_micro_batch(config)
    with FlopCounterMode(display=False) as counter:
        loss_of(model, tokens).backward()
    return counter.get_total_flops()


def kept_activations(config: Config, *, dense: bool = False, attention: str = "eager") -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without weights and
    logits."""
    model, tokens = model_of(config, dense=dense, attention=attention), tokens_of_micro_batch(config)
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    shapes |= {shape[::-1] for shape in shapes}  # copies that autocast makes
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        own = tensor.untyped_storage().data_ptr() not in weights
        if own and tuple(tensor.shape) not in shapes and config.corpus.vocab_size not in tensor.shape:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(model, tokens, bf16=config.pretraining.precision == "bf16")
    assert loss.isfinite()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


# Ranks.


@dataclass
class Received:
    """Bytes that a rank receives in ring collectives, from the arguments of their calls."""

    by: Counter[str] = field(default_factory=Counter)
    """The collective's name."""

    @contextmanager
    def counting(self) -> Iterator[None]:
        self.by.clear()
        yield
        self.last = dict(self.by)

    last: dict[str, float] = field(default_factory=dict)


def count_collectives(received: Received) -> None:
    """Wrap torch.distributed's functions, before DeepSpeed imports some of them."""
    others = (dist.get_world_size() - 1) / dist.get_world_size()

    def size(tensor: Tensor) -> int:
        return tensor.numel() * tensor.element_size()

    shares: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "all_reduce": lambda given: 2 * size(given["tensor"]),
        "reduce": lambda given: size(given["tensor"]),
        "broadcast": lambda given: size(given["tensor"]),
        "all_gather": lambda given: sum(map(size, given["tensor_list"])),
        "all_gather_into_tensor": lambda given: size(given["output_tensor"]),
        "reduce_scatter_tensor": lambda given: size(given["input"]),
        "reduce_scatter": lambda given: sum(map(size, given["input_list"])),
        "all_to_all_single": lambda given: size(given["output"]),
    }
    for name, share in shares.items():
        original = getattr(dist, name)
        signature = inspect.signature(original)

        def counted(
            *arguments: Any,
            _name: str = name,
            _original: Any = original,
            _share: Any = share,
            _signature: Any = signature,
            **named: Any,
        ) -> Any:
            received.by[_name] += others * _share(_signature.bind(*arguments, **named).arguments)
            return _original(*arguments, **named)

        setattr(dist, name, counted)


def live_tensors() -> dict[int, int]:
    """Bytes of each storage of a tensor, including gradients."""
    gc.collect()
    found: dict[int, int] = {}
    for each in gc.get_objects():
        if isinstance(each, Tensor) and type(each) in (Tensor, torch.nn.Parameter):
            tensors = [each] + ([each.grad] if each.is_leaf and each.grad is not None else [])
            for tensor in tensors:
                if tensor.device.type == "cpu":
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


def bytes_since(before: dict[int, int]) -> tuple[int, int]:
    """New bytes: all except DeepSpeed's bucket, and the bucket."""
    new = [number for place, number in live_tensors().items() if place not in before]
    return sum(number for number in new if number < 10**9), sum(number for number in new if number >= 10**9)


def start(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    minutes = timedelta(minutes=5)
    store = f"file://{folder}/store_{world_size}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=minutes)


def measure_rank(rank: int, folder: str) -> None:
    """One of two ranks: its memory with complete gradients, its traffic in a step and its saved
    state, for each ZeRO stage and for split columns."""
    start(rank, 2, folder)
    received = Received()
    count_collectives(received)
    results = [measure_stage(folder, stage, received) for stage in STAGES]
    results.append(measure_stage(folder, 0, received, pool_split=2))
    torch.save(results, f"{folder}/rank_{rank}")
    dist.destroy_process_group()


def measure_stage(folder: str, stage: int, received: Received, *, pool_split: int = 1) -> dict[str, float]:
    from memlm.training.engine import Engine
    from memlm.training.pretrain import pretrain

    config = replace(SMALL, pretraining=replace(SMALL.pretraining, zero_stage=stage, pool_split=pool_split))
    blocks, before = blocks_in(folder, config), live_tensors()
    engine, held = Engine(model_of(config, split=split_over_ranks(pool_split)), config.pretraining), []

    original = engine.step

    def step() -> None:
        if engine._engine.is_gradient_accumulation_boundary():
            held.append(bytes_since(before))
        original()

    engine.step = step  # type: ignore[method-assign]
    steps = pretrain(engine, blocks, config.pretraining, first_step=0, eos_id=EOS, pad_id=PAD)
    next(steps)
    with received.counting():
        next(steps)
    states = Path(folder, f"states_{stage}_{pool_split}")
    states.mkdir(exist_ok=True)
    dist.barrier()
    engine.save(states)
    dist.barrier()
    own, bucket = held[-1]
    return {
        "held": own,
        "bucket": bucket,
        "received": sum(received.last.values()),
        "gathered": received.last.get("all_gather_into_tensor", 0.0),
        "exchanged": received.last.get("all_to_all_single", 0.0),
        "state": sum(file.stat().st_size for file in states.rglob("*") if file.is_file()),
        **usage_of(engine, config, folder),
    }


@torch.no_grad()
def usage_of(engine: Any, config: Config, folder: str) -> dict[str, float]:
    """Unevenness of the model's reads, and distinct rows read by one rank's share of a step and by
    the whole step."""
    from memlm.slots.accesses import on_accesses

    slots: list[Tensor] = []
    tokens = blocks_in(folder, config).take(range(64))
    with on_accesses(engine.model, lambda number, found: slots.append(found)):
        engine.model(input_ids=tokens, use_cache=False)
    counts = slots[0].flatten().bincount(minlength=config.model.memory.num_slots).double()
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * shares.log()).sum())
    spread = (2 * (np.log(config.model.memory.num_slots) - entropy)) ** 0.5
    batch = slots[0][: config.pretraining.batch_blocks]
    return {
        "spread": float(spread),
        "rows of a rank": float(batch[: len(batch) // 2].unique().numel()),
        "rows of a step": float(batch.unique().numel()),
    }


def measure_steps(rank: int, folder: str) -> None:
    """Processor seconds of a step of two shapes, measured in turns, so that other work on the
    machine affects both equally."""
    from memlm.training.engine import Engine
    from memlm.training.pretrain import pretrain

    start(rank, 1, folder)
    running = []
    for config in (ALONE, LARGER):
        engine = Engine(model_of(config), config.pretraining)
        running.append(
            pretrain(engine, blocks_in(folder, config), config.pretraining, first_step=0, eos_id=EOS, pad_id=PAD)
        )
    seconds: list[list[float]] = [[], []]
    for number in range(7):
        for shape, steps in enumerate(running):
            began = time.process_time()
            next(steps)
            if number >= 2:
                seconds[shape].append(time.process_time() - began)
    torch.save([median(each) for each in seconds], f"{folder}/seconds")
    dist.destroy_process_group()


@contextmanager
def reads_spread_by(sigma: float) -> Iterator[None]:
    """Set the unevenness of reads that plans assume, for the block."""
    usual, planning.SPREAD_OF_READS = planning.SPREAD_OF_READS, sigma
    planning._shares_of_reads.cache_clear()
    try:
        yield
    finally:
        planning.SPREAD_OF_READS = usual
        planning._shares_of_reads.cache_clear()
