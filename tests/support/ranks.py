"""Ranks in processes of their own, forked from one that has imported the heavy libraries: four
ranks import them once, not four times."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

HEAVY = [
    "memlm.training.engine",
    "transformers.models.llama.modeling_llama",
    "deepspeed.runtime.zero.muon.original_muon",  # it imports torch's compiler when a ZeRO engine starts
]


def start_ranks(work: Callable[..., None], *arguments: Any, number: int) -> mp.ProcessContext:
    """Start `work(rank, *arguments)` in each of `number` processes. All see the environment of the
    first call in this process."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(HEAVY)
    context = mp.start_processes(work, args=arguments, nprocs=number, start_method="forkserver", join=False)
    assert context is not None
    return context


def run_ranks(work: Callable[..., None], *arguments: Any, number: int) -> None:
    """Start ranks and wait for their end; raises the error of any of them."""
    context = start_ranks(work, *arguments, number=number)
    while not context.join():
        pass
