"""What the methods that move chosen rows of the value pools have in common: the pools, how a step
opens rows, and what it reports of them."""

import itertools
from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memlm.data.questions.facts import FactBatch
from memlm.methods.config import SlotMethodConfig
from memlm.methods.method import Method
from memlm.model.memory import ValuePool
from memlm.model.reader import Reader, Recording
from memlm.model.weighted_read import TrainableRows
from memlm.slots.accesses import memory_layers, value_pools
from memlm.slots.counts import BackgroundCounts


class SlotFinetuning(Method):
    def __init__(
        self,
        model: nn.Module,
        config: SlotMethodConfig,
        background: BackgroundCounts,
        *,
        seed: int,
        recording: Recording | None = None,
    ) -> None:
        self.model = model.requires_grad_(False)
        self.pools = value_pools(model)
        if not self.pools:
            raise ValueError(
                f"method {config.name} trains slots, but the checkpoint has no memory layer; use the memory model's checkpoint"
            )
        num_slots = sum(pool.num_slots for pool in self.pools)
        if len(background.accesses) != num_slots:
            raise ValueError(
                f"the background counts are of {len(background.accesses)} slots and the model has {num_slots}; "
                "rerun pipelines/count_accesses.py for this checkpoint"
            )
        if config.num_trainable_slots > num_slots:
            raise ValueError(
                f"method.num_trainable_slots is {config.num_trainable_slots}, more than the pool's {num_slots} slots; lower it"
            )
        self.background = background.to(self.pools[0].weight.device)
        self.reader = Reader(model, recording=recording)
        self.layers = memory_layers(model)
        self.generator = torch.Generator().manual_seed(seed)
        ends = list(itertools.accumulate(pool.num_slots for pool in self.pools))
        self.first_slots = dict(zip(self.pools, [0, *ends], strict=False))
        """Each pool's first slot in the numbering of all pools."""
        self.opened = ExitStack()
        """Holds pools to sending their gradients to the open rows, for the length of the step."""
        self.rows: dict[ValuePool, TrainableRows] = {}
        """The step's open rows, by their pool."""

    def logits(self, batch: FactBatch) -> Float[Tensor, "wordings seq vocab"]:
        return self.reader.logits(batch.tokens)

    def _slots_in(self, pool: ValuePool, selected: Int[Tensor, " trainable"]) -> Int[Tensor, " rows"]:
        """The rows of a pool among selected slots, ascending."""
        first = self.first_slots[pool]
        return selected[(selected >= first) & (selected < first + pool.num_slots)] - first

    def _open_rows(self, selected: Int[Tensor, " trainable"]) -> None:
        for pool in self.pools:
            slots = self._slots_in(pool, selected)
            pool.announce_write(slots)
            if len(slots):
                self._open(pool, slots)

    def _open(self, pool: ValuePool, slots: Int[Tensor, " rows"]) -> None:
        self.rows[pool] = TrainableRows(slots, pool.weight.detach()[slots].float().requires_grad_(True))
        self.opened.enter_context(pool.sending_gradients_to(self.rows[pool]))

    def _select_rows(
        self, selected: Int[Tensor, " trainable"], background: BackgroundCounts, report: dict[str, float]
    ) -> None:
        """Note the slots that may move in this step, and report how common they are."""
        self.selected_slots = selected
        report["num_trainable_slots"] = len(selected)
        frequency = float(background.batch_frequency[selected].double().mean()) if len(selected) else 0.0
        report["background_share"] = frequency / max(1, background.num_batches)

    def close_step(self) -> None:
        self.opened.close()
        for layer in self.layers:
            layer.on_access = None
        self.rows = {}

    def finish(self) -> nn.Module:
        return self.model
