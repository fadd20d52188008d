"""Which of a trial's weights are its own? Trials on a node read one copy of a checkpoint, in the
object store, and own what they write to.

What a method writes to says its config: only the rows of the value pools, nothing, or
everything.
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
    """One checkpoint as an actor holds it, from trial to trial."""

    def __init__(self, config: PreTrainedConfig, arrays: Mapping[str, np.ndarray], device: torch.device) -> None:
        self.config, self.device = config, device
        self.base = {name: read_only_tensor(array) for name, array in arrays.items()}
        self.pools: dict[str, Tensor] = {}
        """This actor's own value pools, by the name of their weight; between trials they equal
        the base's."""
        self.placed: dict[str, Tensor] = {}
        """The base where trials run; on a CPU the shared arrays themselves."""

    def model(self) -> nn.Module:
        """The base model, to be read and never written to."""
        return model_of_weights(self.config, self._base_on_device(self.base))

    @contextmanager
    def model_for(self, method: MethodConfig) -> Iterator[nn.Module]:
        """The base model for one trial, which may write to what its method moves. No trace of
        the trial is left on leaving."""
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
            # .to() copies to another device by itself.
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
                _put_back(self.pools[name], self.base[name], slots)

    def _base_on_device(self, names: Iterable[str]) -> dict[str, Tensor]:
        placed = {}
        for name in names:
            if name not in self.placed:
                self.placed[name] = self.base[name].to(self.device)
            placed[name] = self.placed[name]
        return placed


def pool_weights(model: nn.Module) -> dict[str, ValuePool]:
    """The value pools by the names of their weights."""
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, ValuePool)}


def _put_back(own: Tensor, base: Tensor, moved: list[Tensor]) -> None:
    """Cost follows the rows that moved, not the pool."""
    if not moved:
        return
    slots = torch.cat(moved).unique()
    if len(slots) == len(own):
        own.copy_(base)
    else:
        own[slots] = base[slots.to(base.device)].to(own.device)
