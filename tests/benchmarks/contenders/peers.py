"""Memory layers and kernels of other packages, used as intended, behind the interface of a
contender.

Each is built as near to our layer as its options allow; `DIFFERS` says what remains. Packages
come from the extra `bench`.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.contenders.layers import TrainingStep, adamw
from tests.benchmarks.inputs import compared_slots, output_gradient, read_weights, uniform_reads, value_table

DIFFERS = {
    "ProductKeyMemory": "LayerNorm on queries; Adam's moments move rows that were not read; its package has neither gate nor output "
    "projection, which torch adds around it here so that the same work is done",
    "ProductKeyMemory alone": "as it is packaged: no gate and no output projection; not the same work, so shown and not counted",
    "PEER": "two rows per slot, each slot a two-layer network; no output gate",
    "UltraMem": "as many values, in a table of its own for each head, so a quarter of the bytes read; rank-2 scores; ReLU of the scores in "
    "place of softmax; no output gate; its package scales the gradient of the values with the wrong sign",
    "FBGEMM Adagrad": "row-wise Adagrad in place of SGD",
}


class _PackageLayer(TrainingStep):
    """A package's layer, with all of its parameters under one fused AdamW."""

    def __init__(self, *, device: torch.device, **shape: int) -> None:
        super().__init__(device=device, **shape)
        with torch.device(device):
            self.module = self.build()
        self.batch = self.hidden.detach()[None].requires_grad_(True)
        self.optimizer = adamw(self.module.parameters())

    @abstractmethod
    def build(self) -> nn.Module: ...

    def run(self) -> Tensor:
        return self.module(self.batch)[0]

    def optimize(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.batch.grad = None


class ProductKeyMemory(_PackageLayer):
    """product-key-memory 0.3.0, with the gate and the output projection of Memory+ around it, or
    `alone`."""

    def __init__(self, *, device: torch.device, alone: bool = False, **shape: int) -> None:
        self.alone = alone
        super().__init__(device=device, **shape)

    def build(self) -> nn.Module:
        from product_key_memory import PKM

        s = self.shape
        layer = PKM(s.width, heads=s.num_heads, num_keys=s.num_half_keys, topk=s.top_k, dim_head=s.key_dim // 2)
        return layer if self.alone else _Gated(layer, s.width)


class _Gated(nn.Module):
    """(y * silu(x W1)) W2 around a lookup y of x (Berges et al. 2024, section 3)."""

    def __init__(self, lookup: nn.Module, width: int) -> None:
        super().__init__()
        self.lookup, self.gate, self.output = lookup, nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output(self.lookup(hidden) * F.silu(self.gate(hidden)))


class PEER(_PackageLayer):
    """PEER-pytorch 0.2.2, with competing scores: its default reads one expert per head, whatever
    is asked for."""

    def build(self) -> nn.Module:
        from PEER_pytorch import PEER

        s = self.shape
        return PEER(
            s.width,
            heads=s.num_heads,
            num_experts=s.num_slots,
            num_experts_per_head=s.top_k,
            dim_key=s.key_dim // 2,
            non_competing_scores=False,
        )


class UltraMem(_PackageLayer):
    """ultra-mem 0.1.2 with our heads and as many values as ours."""

    def build(self) -> nn.Module:
        from ultra_mem import UltraMem

        s = self.shape
        return UltraMem(
            s.width,
            num_memories=s.num_slots,
            topk=s.top_k,
            dim_queries_keys=s.key_dim // 2,
            core_heads=s.num_heads,
            value_expansion=1,
        )

    def run(self) -> Tensor:
        output, _, auxiliary_loss = self.module(self.batch)
        # Part of its training: the loss on the singular values of its core.
        return output[0] + auxiliary_loss


class FusedEmbeddingBags(Contender):
    """FBGEMM's SplitTableBatchedEmbeddingBags: backward applies the optimizer to the rows that
    were read."""

    def __init__(
        self,
        *,
        device: torch.device,
        optimizer: str,
        num_tokens: int,
        num_heads: int,
        top_k: int,
        num_slots: int,
        value_dim: int,
        learning_rate: float,
    ) -> None:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        on_gpu = device.type == "cuda"
        self.device, self.num_slots = device, num_slots
        place = EmbeddingLocation.DEVICE if on_gpu else EmbeddingLocation.HOST
        self.bags = SplitTableBatchedEmbeddingBagsCodegen(
            [(num_slots, value_dim, place, ComputeDevice.CUDA if on_gpu else ComputeDevice.CPU)],
            optimizer=EmbOptimType[optimizer],
            learning_rate=learning_rate,
            weights_precision=SparseType.FP32,
            output_dtype=SparseType.FP32,
            device=device,
        )
        (self.table,) = self.bags.split_embedding_weights()
        self.table.copy_(value_table(num_slots, value_dim, device))
        num_reads = num_heads * top_k
        self.indices = uniform_reads(num_tokens, num_reads, num_slots, device).flatten()
        self.offsets = torch.arange(0, num_tokens * num_reads + 1, num_reads, device=device)
        self.weights = read_weights(num_tokens, num_heads, top_k, device).flatten().requires_grad_(True)
        self.gradient = output_gradient(num_tokens, value_dim, device)

    def _step(self) -> Tensor:
        output = self.bags(self.indices, self.offsets, per_sample_weights=self.weights)
        output.backward(self.gradient)
        return output

    def repeat(self, clock: Clock) -> None:
        with clock:
            self._step()
            self.weights.grad = None

    def outputs(self) -> dict[str, Tensor]:
        compared = compared_slots(self.num_slots, self.device)
        before = self.table[compared].clone()
        output = self._step().detach()
        assert self.weights.grad is not None
        gradient = self.weights.grad.view(len(self.gradient), -1).clone()
        self.weights.grad = None
        return {
            "output": output,
            "gradient of the weights": gradient,
            "step of the rows": self.table[compared] - before,
        }
