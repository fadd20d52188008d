"""Options of `memlm plan`, apart from the recipe's overrides, and its answer."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isqrt

from memlm.config import Config
from memlm.preflight.cost.goodput import GPU_HOURS_PER_FAILURE
from memlm.preflight.cost.machines import MACHINES, Machine
from memlm.preflight.cost.model import PlanError
from memlm.preflight.cost.page import as_json, as_page
from memlm.preflight.cost.stages import Assumptions, Trials, make_plan

MAX_COLUMNS = 8
UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
LARGEST = 1e18
DESCRIPTION = """Compute what a recipe will cost: parameters, memory, FLOPs, network, time, goodput, storage and
trials, and how each grows. Needs no cluster. Several numbers after --gpus, --slots or
--corpus-tokens make a column each."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    gpus: tuple[int, ...]
    """Numbers of devices; None for the recipe's number of workers."""
    gpu_type: str
    slots: tuple[int, ...]
    corpus_tokens: tuple[float, ...]
    utilisation: float
    failures_per_gpu_hour: float
    vocab_size: int
    split: int
    json: bool


def take_options(arguments: Sequence[str]) -> tuple[PlanOptions, list[str]]:
    """Split a command line into the plan's own options, and recipe and overrides. Exits with status
    2 for a value that is not a number."""
    parser = argparse.ArgumentParser(
        prog="memlm plan",
        usage="memlm plan [RECIPE] [--gpus N ...] [--gpu-type TYPE] [options] [--FIELD VALUE ...]",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gpus", type=int, nargs="+", default=[], help="numbers of devices (default: the recipe's workers)"
    )
    parser.add_argument("--gpu-type", default="h100", help=f"kind of device: {', '.join(MACHINES)} (default: h100)")
    parser.add_argument(
        "--slots", type=_count, nargs="+", default=[], help="slots of each pool, such as 2^20 (default: the recipe's)"
    )
    parser.add_argument(
        "--corpus-tokens",
        type=_number,
        nargs="+",
        default=[],
        help="tokens of a corpus that is trained on once, such as 4T (default: the recipe's corpus and steps)",
    )
    parser.add_argument(
        "--utilisation", type=float, default=0.35, help="share of the peak that matrix products reach (default: 0.35)"
    )
    parser.add_argument(
        "--failures-per-gpu-hour",
        type=float,
        default=1 / GPU_HOURS_PER_FAILURE,
        help=f"failure rate (default: Llama 3's, 1/{GPU_HOURS_PER_FAILURE:,.0f})",
    )
    parser.add_argument(
        "--vocab-size", type=int, default=0, help="size of the vocabulary, for a tokenizer of unknown size"
    )
    parser.add_argument(
        "--split",
        type=int,
        default=0,
        help="devices over which a pool's columns are split (default: the recipe's, or the fewest that have room)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    found, rest = parser.parse_known_args(list(arguments))
    options = PlanOptions(
        gpus=tuple(found.gpus),
        gpu_type=found.gpu_type,
        slots=tuple(found.slots),
        corpus_tokens=tuple(found.corpus_tokens),
        utilisation=found.utilisation,
        failures_per_gpu_hour=found.failures_per_gpu_hour,
        vocab_size=found.vocab_size,
        split=found.split,
        json=found.json,
    )
    return options, rest


def answer(config: Config, machine: Machine, options: PlanOptions, trials: Trials) -> str:
    """Page or JSON of a plan. Raises PlanError, or ValueError naming a field of the config."""
    gpus, slots, tokens = (
        options.gpus or (config.cluster.num_workers,),
        options.slots or (0,),
        options.corpus_tokens or (0.0,),
    )
    if len(gpus) * len(slots) * len(tokens) > MAX_COLUMNS:
        raise PlanError(
            f"--gpus, --slots and --corpus-tokens make {len(gpus)} x {len(slots)} x {len(tokens)} columns; "
            f"a page has room for {MAX_COLUMNS}: use several calls"
        )
    plans = [
        make_plan(
            with_slots(config, number) if number else config,
            machine,
            devices,
            Assumptions(
                utilisation=options.utilisation,
                failures_per_gpu_hour=options.failures_per_gpu_hour,
                vocab_size=options.vocab_size,
                corpus_tokens=corpus,
                split=options.split,
            ),
            trials,
        )
        for devices, number, corpus in product(gpus, slots, tokens)
    ]
    if options.json:
        return json.dumps(as_json(config.recipe, plans), indent=1, allow_nan=False)
    return as_page(config.recipe, plans)


def with_slots(config: Config, slots: int) -> Config:
    """Config with the pool nearest in size to `slots`: a number of slots is a square of
    half-keys."""
    half_keys = isqrt(slots)
    half_keys += (half_keys + 1) ** 2 - slots < slots - half_keys**2
    memory = replace(config.model.memory, num_half_keys=half_keys)
    return replace(config, model=replace(config.model, memory=memory))


def _number(text: str) -> float:
    """Parse a number such as 1e12, 4T, 2^20 or 1_000."""
    power = re.fullmatch(r"(\d+)\^(\d+)", text)
    scaled = re.fullmatch(r"([\d_.]+(?:[eE][+]?\d+)?)([kMGBT]?)", text)
    try:
        number = float(power[1]) ** float(power[2]) if power else 0.0
        number = float(scaled[1]) * UNITS[scaled[2]] if scaled else number
    except (ValueError, OverflowError):
        number = 0.0
    if not 1 <= number <= LARGEST:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a number from 1 to {LARGEST:g}; write it as 1048576, 2^20, 1e12, 64M or 4T"
        )
    return number


def _count(text: str) -> int:
    return int(_number(text))
