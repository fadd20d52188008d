"""Contenders of the GPU rows: the read against the speed of memory, and the peak FLOPs of
devices."""

from typing import Literal

import torch

from memlm.model.kernels import kernels_for
from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.inputs import output_gradient, read_weights, uniform_reads

NUM_SLOTS, VALUE_DIM = 1 << 20, 1024
NUM_TOKENS, NUM_HEADS, TOP_K = 8192, 4, 32
"""Shape whose 2 GiB of rows are read once per pass, far more than any cache holds; the output
gradient, 32 MiB, is read for each of them."""

BF16_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense peaks from NVIDIA's data sheets by a part of the device's name; the first match counts."""


def peak_flops(device_name: str) -> float | None:
    """Peak FLOPs per second of a device; None if it is not in the table."""
    return next((flops for name, flops in BF16_FLOPS.items() if name in device_name), None)


class ReadTraffic(Contender):
    """The kernels of the weighted read on a bf16 table, forward or backward."""

    def __init__(self, *, device: torch.device, direction: Literal["forward", "backward"]) -> None:
        self.direction = direction
        self.table = torch.empty(NUM_SLOTS, VALUE_DIM, dtype=torch.bfloat16, device=device)
        self.table.normal_(std=VALUE_DIM**-0.5)
        self.slots = uniform_reads(NUM_TOKENS, NUM_HEADS * TOP_K, NUM_SLOTS, device)
        self.weights = read_weights(NUM_TOKENS, NUM_HEADS, TOP_K, device)
        self.gradient = output_gradient(NUM_TOKENS, VALUE_DIM, device)

    @torch.no_grad()
    def repeat(self, clock: Clock) -> None:
        kernels = kernels_for(self.table)
        with clock:
            if self.direction == "forward":
                kernels.read(self.table, self.slots, self.weights)
            else:
                kernels.read_backward(
                    self.gradient, self.table, self.slots, self.weights, rows=True, weight_gradient=True
                )


class DeviceCopy(Contender):
    """Copy of 1 GiB within the device's memory."""

    def __init__(self, *, device: torch.device) -> None:
        self.source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
        self.target = torch.empty_like(self.source)

    def repeat(self, clock: Clock) -> None:
        with clock:
            self.target.copy_(self.source)


COPY_BYTES = 1 << 30


def copied_bytes() -> int:
    """Bytes moved by one copy, which reads and writes."""
    return 2 * COPY_BYTES


def read_bytes(direction: Literal["forward", "backward"]) -> int:
    """Bytes that one pass must move at least, if caches hold everything except the table. Forward:
    the rows and the slots with their weights in, the output out. Backward: those and the output
    gradient in; the gradients of the weights and, in fp32, of each row that was read out.

    Forward: the rows and the slots with their weights in, the output out. Backward: those and
    the output gradient in; the gradients of the weights and, in fp32, of each row that was read
    out.
    """
    reads = NUM_TOKENS * NUM_HEADS * TOP_K
    rows, lookups = reads * VALUE_DIM * 2, reads * (8 + 4)
    if direction == "forward":
        return rows + lookups + NUM_TOKENS * VALUE_DIM * 2
    distinct = int(uniform_reads(NUM_TOKENS, NUM_HEADS * TOP_K, NUM_SLOTS, torch.device("cpu")).unique().numel())
    return rows + lookups + NUM_TOKENS * VALUE_DIM * 4 + reads * 4 + distinct * VALUE_DIM * 4
