"""Export a complete model when no rank holds whole tables: the other weights are saved as usual,
and the tables row by row from the ranks that hold their columns.

Each table becomes one tensor in a safetensors file of its own, so that readers of the checkpoint,
such as Hugging Face's loader, find the same as after an unsplit pretraining. (All ranks could write
files of columns at once, but only readers that know about the split could read them, because a
loader combines tensors, never parts of one.) The first rank holds one chunk of rows at a time.

Counting and finetuning read the tables unsplit. For 64 M slots of 1,024 values that is 256 GiB in
fp32 for each worker, in its host's memory; a finetune or an evaluation on a GPU needs them on the
GPU. Counting computes nothing with values, but loads them with the rest.
"""

import json
from pathlib import Path
from typing import BinaryIO

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from memlm.model.column_split import row_chunks
from memlm.model.memory import ValuePool

BASE_FILE = "model-00001-of-00001.safetensors"
"""Name of the file with the other weights next to those of tables: with the usual name, a loader
would not look for more files."""
POOL_FILE = "value_pools_{}.safetensors"


def export_with_split_pools(model: nn.Module, directory: Path | None) -> None:
    """Write a model whose pools are split, but not its parameters, as a Hugging Face checkpoint.
    Every rank must call it.

    The first rank writes into the directory that it gives; the other ranks that hold columns of its
    tables send them.
    """
    assert (directory is not None) == (dist.get_rank() == 0), "only the first rank writes"
    pools = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, ValuePool)}
    if directory is not None:
        model.save_pretrained(directory)  # type: ignore[operator]
        _write_index(directory, pools)
    for number, (name, pool) in enumerate(pools.items()):
        assert pool.split is not None and not isinstance(pool.weight, nn.Parameter)
        if dist.get_rank() >= pool.split.num_parts:
            continue  # the first group of readers holds everything
        if directory is None:
            _send_rows(pool, None)
        else:
            with open(directory / POOL_FILE.format(number), "wb") as file:
                file.write(_header(name, pool))
                _send_rows(pool, file)


@torch.no_grad()
def _send_rows(pool: ValuePool, file: BinaryIO | None) -> None:
    """Write all rows of the table, in order, into the first rank's file."""
    assert pool.split is not None
    for rows in row_chunks(pool.num_slots, pool.value_dim):
        mine = pool.weight[rows].contiguous()
        parts: list[Tensor] | None = None
        if file is not None:
            parts = [torch.empty_like(mine) for _ in range(pool.split.num_parts)]
        dist.gather(mine, parts, dst=0, group=pool.split.readers)
        if file is not None and parts is not None:
            file.write(torch.cat([part.cpu() for part in parts], dim=1).numpy().data)


def _header(name: str, pool: ValuePool) -> bytes:
    """Header of a file with one fp32 matrix: https://github.com/huggingface/safetensors#format."""
    assert pool.weight.dtype == torch.float32
    place = {"dtype": "F32", "shape": [pool.num_slots, pool.value_dim], "data_offsets": [0, _num_bytes(pool)]}
    described = json.dumps({"__metadata__": {"format": "pt"}, name: place}).encode()
    described += b" " * (-len(described) % 8)
    return len(described).to_bytes(8, "little") + described


def _write_index(directory: Path, pools: dict[str, ValuePool]) -> None:
    """Write the index of tensors by file, for the weights that save_pretrained wrote and the
    tables."""
    path = directory / SAFE_WEIGHTS_INDEX_NAME
    if path.exists():
        index = json.loads(path.read_text())
    else:
        base = (directory / SAFE_WEIGHTS_NAME).rename(directory / BASE_FILE)
        with base.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        names = [name for name in header if name != "__metadata__"]
        total = sum(header[name]["data_offsets"][1] - header[name]["data_offsets"][0] for name in names)
        index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(names, BASE_FILE)}
    index["metadata"]["total_size"] += sum(map(_num_bytes, pools.values()))
    index["weight_map"] |= {name: POOL_FILE.format(number) for number, name in enumerate(pools)}
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _num_bytes(pool: ValuePool) -> int:
    return pool.num_slots * pool.value_dim * pool.weight.element_size()
