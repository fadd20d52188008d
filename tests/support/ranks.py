"""Ranks in processes of their own, forked from one that has imported what takes seconds: four
ranks import it once, not four times."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

HEAVY = [
    "memlm.training.engine",
    "transformers.models.llama.modeling_llama",
    "deepspeed.runtime.zero.muon.original_muon",  # and with it torch's compiler, when an engine of ZeRO begins
]


def run_ranks(work: Callable[..., None], *arguments: Any, number: int) -> None:
    """`work(rank, *arguments)` in each; raises what one of them raises. They see the environment
    that the first call here had."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(HEAVY)
    mp.start_processes(work, args=arguments, nprocs=number, start_method="forkserver")
