"""Weights of the trials on a node. All read one copy of a checkpoint in the object store, and each
has its own copy of the weights that it writes to.

The method's config says which ones: rows of the value pools, none, or all.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from memlm.jobs.trial.materials import model_of_weights
from memlm.methods.config import MethodConfig
from memlm.model.memory import ValuePool
from memlm.model.reader.recording import read_only_tensor


class TrialWeights:
    """Weights of one checkpoint in an actor, kept from trial to trial."""

    def __init__(self, config: PreTrainedConfig, arrays: Mapping[str, np.ndarray], device: torch.device) -> None:
        self.config, self.device = config, device
        self.base = {name: read_only_tensor(array) for name, array in arrays.items()}
        self.pools: dict[str, Tensor] = {}
        """This actor's own value pools, by the name of the weight. Between trials they equal the
        base model's."""
        self.placed: dict[str, Tensor] = {}
        """The base model on the trials' device; on a CPU, the shared arrays themselves."""

    def model(self) -> nn.Module:
        """The base model, read-only."""
        return model_of_weights(self.config, self._base_on_device(self.base))

    @contextmanager
    def model_for(self, method: MethodConfig) -> Iterator[nn.Module]:
        """The base model for one trial, which may write to the weights that its method trains. All
        changes are undone at the end of the block."""
        if method.moves == "values":
            with self._model_with_own_pools() as model:
                yield model
            return
        weights = self._base_on_device(self.base)
        if method.moves == "everything":
            weights = {name: tensor.clone() for name, tensor in weights.items()}
        yield model_of_weights(self.config, weights)

    @contextmanager
    def _model_with_own_pools(self) -> Iterator[nn.Module]:
        if not self.pools:
            names = pool_weights(model_of_weights(self.config, self.base))
            # .to() makes a copy on another device anyway.
            self.pools = {name: self.base[name].to(self.device, copy=True) for name in names}
        rest = self._base_on_device(self.base.keys() - self.pools.keys())
        model = model_of_weights(self.config, {**rest, **self.pools})
        written: dict[str, list[Tensor]] = {}
        for name, pool in pool_weights(model).items():
            written[name] = []
            pool.on_write = written[name].append
        try:
            yield model
        finally:
            for name, slots in written.items():
                _restore_rows(self.pools[name], self.base[name], slots)

    def _base_on_device(self, names: Iterable[str]) -> dict[str, Tensor]:
        placed = {}
        for name in names:
            if name not in self.placed:
                self.placed[name] = self.base[name].to(self.device)
            placed[name] = self.placed[name]
        return placed


def pool_weights(model: nn.Module) -> dict[str, ValuePool]:
    """Value pools by the names of their weights."""
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, ValuePool)}


def _restore_rows(own: Tensor, base: Tensor, moved: list[Tensor]) -> None:
    """Restore the rows that moved, at a cost that depends on their number and not on the pool's
    size."""
    if not moved:
        return
    slots = torch.cat(moved).unique()
    if len(slots) == len(own):
        own.copy_(base)
    else:
        own[slots] = base[slots.to(base.device)].to(own.device)
