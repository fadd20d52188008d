"""Rows that need a GPU: bytes per second of the read, and a pretraining step of a large recipe."""

from pathlib import Path
from typing import Any, Literal

import torch

from memlm.recipes import RECIPES
from tests.benchmarks.contenders.models import flops_per_token, tokens_of_step, vocabulary_of
from tests.benchmarks.gpus import (
    NUM_SLOTS,
    NUM_TOKENS,
    VALUE_DIM,
    copied_bytes,
    peak_flops,
    read_bytes,
)
from tests.benchmarks.measure import Budget, ContenderError, Process, Spec, in_turns
from tests.benchmarks.rows import Figures, Row

CUDA = "cuda"
TRIED = [(recipe, blocks) for recipe in ("paper_1b", "laptop") for blocks in (8, 4, 2, 1)]
"""Recipes and batch sizes in the order in which they are tried until one fits the device, the
largest first."""


def gpu_only_rows() -> list[Row]:
    return [
        _traffic_row("read_forward_bytes", "forward", aim=0.9),
        _traffic_row("read_backward_bytes", "backward", aim=0.7),
        Row(
            name="pretraining_flops",
            unit="TFLOP/s",
            bound="min",
            bar=None,
            aim=None,
            seconds=180,
            run=_pretraining,
        ),
    ]


def _traffic_row(name: str, direction: Literal["forward", "backward"], *, aim: float) -> Row:
    def run(folder: Path) -> Figures:
        read = Spec(name="memlm", contender="gpus:ReadTraffic", arguments={"device": CUDA, "direction": direction})
        copy = Spec(name="copy within the device", contender="gpus:DeviceCopy", arguments={"device": CUDA})
        with Process(read, folder) as ours, Process(copy, folder) as peer:
            our_timing, peer_timing = in_turns([ours, peer], Budget(seconds=10, fewest=10, most=100))
        our_rate = read_bytes(direction) / our_timing.median / 1e9
        copy_rate = copied_bytes() / peer_timing.median / 1e9
        shape = (
            f"{NUM_SLOTS:,} slots of {VALUE_DIM} in bf16, {NUM_TOKENS:,} tokens, 128 reads each, uniform; {direction}"
        )
        return Figures(
            ours=our_rate,
            peer=copy_rate,
            peer_name=copy.name,
            ratio=our_rate / copy_rate,
            conditions={"shape": shape, "bytes": read_bytes(direction)},
        )

    return Row(name=name, unit="GB/s", bound="min", bar=None, aim=aim, seconds=40, run=run)


def _pretraining(folder: Path) -> Figures:
    """Tokens per second and model FLOP utilisation. Raises ContenderError if not even the
    smallest recipe fits."""
    refused = []
    for recipe, blocks in TRIED:
        arguments: dict[str, Any] = {
            "device": CUDA,
            "recipe": recipe,
            "architecture": "memory",
            "micro_batch_blocks": blocks,
        }
        spec = Spec(
            name=f"recipe {recipe}, {blocks} blocks", contender="contenders.models:Pretraining", arguments=arguments
        )
        try:
            with Process(spec, folder, timeout=600) as process:
                (timing,) = in_turns([process], Budget(seconds=20, fewest=5, most=30))
        except ContenderError as error:
            refused.append(str(error))
            continue
        return _utilisation(recipe, blocks, timing.median, refused)
    raise ContenderError("; ".join(refused))


def _utilisation(recipe: str, blocks: int, seconds: float, refused: list[str]) -> Figures:
    config = RECIPES[recipe]()
    per_second = tokens_of_step(recipe, blocks) / seconds
    flops = flops_per_token(config.model, vocab_size=vocabulary_of(config), block_size=config.corpus.block_size)
    name = torch.cuda.get_device_name()
    peak = peak_flops(name)
    if peak is None:
        raise ContenderError(
            f"the peak of {name!r} is not in gpus.BF16_FLOPS; add it from the maker's data sheet to measure utilisation"
        )
    return Figures(
        ours=per_second * flops / 1e12,
        peer=peak / 1e12,
        peer_name=f"bf16 peak of {name}",
        ratio=per_second * flops / peak,
        conditions={
            "shape": f"recipe {recipe}, {blocks} blocks of {config.corpus.block_size} a step",
            "tokens_per_second": per_second,
            "flops_per_token": flops,
            "did_not_fit": refused,
        },
    )
