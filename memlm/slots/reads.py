"""The reads of a sample of background text: which slots each token reads, and with what weights.

Their second moment C = E[w w'], with w a token's weight on every slot, says which slots background
text reads together. C itself is never formed: its block of a few slots is one small product of
sparse columns. Samples merge by stacking their rows, because both the sum of w w' and the number
of tokens add up.

With the model's sensitivities (sensitivities.py), tokens may also be weighted by how much the loss
depends on what they read.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from memlm.model.kernels import kernels_for
from memlm.slots.kept import KeptTensors
from memlm.slots.sensitivities import Sensitivities


@dataclass(frozen=True, kw_only=True)
class BackgroundReads:
    """Reads in the numbering of all pools (accesses.py), on the CPU.

    Each memory layer has a row of its own per token, so that the moments of layers that share a
    pool add up, and those of separate pools do not mix.
    """

    slots: Int[Tensor, "rows reads"]
    """int32."""
    weights: Float[Tensor, "rows reads"]
    """Softmax weights, fp32. Two heads may read one slot."""
    num_tokens: int
    num_slots: int
    """Slots of all pools."""
    sensitivities: Sensitivities | None = None
    """Those of the same rows; None if they were not measured, as for the reads of a fact."""
    exponent: float = 0.0
    """The power of their sensitivities by which tokens are weighted; 0 for none."""
    kept: KeptTensors = field(default_factory=KeptTensors, compare=False, repr=False)
    """What was computed from these reads before, whatever their weighting, for as long as they are
    in memory."""

    @staticmethod
    def of_batch(
        slots: Int[Tensor, "batch seq layers reads"],
        weights: Float[Tensor, "batch seq layers reads"],
        is_token: Bool[Tensor, "batch seq"],
        *,
        num_slots: int,
        sensitivities: Sensitivities | None = None,
    ) -> "BackgroundReads":
        """The reads of a micro-batch's tokens, without pads."""
        return BackgroundReads(
            slots=slots[is_token].flatten(0, 1).int().cpu(),
            weights=weights[is_token].flatten(0, 1).float().cpu(),
            num_tokens=int(is_token.sum()),
            num_slots=num_slots,
            sensitivities=sensitivities,
        )

    def __add__(self, other: "BackgroundReads") -> "BackgroundReads":
        if self.num_slots != other.num_slots or self.slots.shape[1] != other.slots.shape[1]:
            raise ValueError(
                f"background reads of {self.slots.shape[1]} of {self.num_slots} slots and of {other.slots.shape[1]} of {other.num_slots} slots "
                "cannot be stacked; they come from different models, so use reads of one model"
            )
        if (self.sensitivities is None) != (other.sensitivities is None):
            raise ValueError(
                "background reads with sensitivities and without cannot be stacked; an earlier version made some of the units, "
                "so move the folder reads-partial away and run pipelines/count_accesses.py"
            )
        sensitivities = None
        if self.sensitivities is not None and other.sensitivities is not None:
            sensitivities = self.sensitivities + other.sensitivities
        return BackgroundReads(
            slots=torch.cat([self.slots, other.slots]),
            weights=torch.cat([self.weights, other.weights]),
            num_tokens=self.num_tokens + other.num_tokens,
            num_slots=self.num_slots,
            sensitivities=sensitivities,
        )

    def weighted(self, exponent: float) -> "BackgroundReads":
        """The same reads, each token weighted by a power of its sensitivity, with a mean weight of
        1: the moment becomes E[s^p w w'] / E[s^p]. The same object every time. Raises ValueError
        without sensitivities."""
        if self.sensitivities is None:
            raise ValueError(
                "the background reads hold no sensitivities: counting.sensitivities was False, or an earlier version made them; "
                "move the run's folder reads away and run pipelines/count_accesses.py with counting.sensitivities True"
            )
        assert not self.exponent, "these reads are weighted already"
        if exponent not in self._weighted:
            scales = self.sensitivities.weights_of_rows(exponent).sqrt()
            self._weighted[exponent] = replace(self, weights=self.weights * scales[:, None], exponent=exponent)
        return self._weighted[exponent]

    @cached_property
    def _weighted(self) -> dict[float, "BackgroundReads"]:
        return {}

    def of_other_text(self, name: str, read: Callable[[], "BackgroundReads"]) -> "BackgroundReads":
        """The same model's reads of another text, read once for as long as these are in memory."""
        if name not in self._of_other_texts:
            self._of_other_texts[name] = read()
        return self._of_other_texts[name]

    @cached_property
    def _of_other_texts(self) -> dict[str, "BackgroundReads"]:
        return {}

    @cached_property
    def by_slot(self) -> "ReadsBySlot":
        return ReadsBySlot.of(self)

    @cached_property
    def mean_square(self) -> float:
        """Mean squared weight of a token's read of a slot; 0 without any read."""
        weights = self.by_slot.weights.double()
        return float(weights.square().sum()) / max(1, len(weights))

    def second_moment(self, slots: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen chosen"]:
        """The block of C of these slots, which differ; fp64."""
        return self.by_slot.products(slots) / max(1, self.num_tokens)

    def save(self, path: Path) -> None:
        """Raises ValueError if tokens are weighted: the weighting is a method's, not the text's."""
        if self.exponent:
            raise ValueError(
                f"the background reads are weighted with the exponent {self.exponent}; save the plain ones"
            )
        tensors = {"slots": self.slots, "weights": self.weights}
        if self.sensitivities is not None:
            tensors |= {"of_rows": self.sensitivities.of_rows, "of_outputs": self.sensitivities.of_outputs}
        numbers = {"num_tokens": torch.tensor(self.num_tokens), "num_slots": torch.tensor(self.num_slots)}
        save_file({**{name: tensor.contiguous() for name, tensor in tensors.items()}, **numbers}, path)

    @staticmethod
    def load(path: Path) -> "BackgroundReads":
        """Those of an earlier version have no sensitivities."""
        tensors = load_file(path)
        return BackgroundReads(
            slots=tensors["slots"],
            weights=tensors["weights"],
            num_tokens=int(tensors["num_tokens"]),
            num_slots=int(tensors["num_slots"]),
            sensitivities=None
            if "of_rows" not in tensors
            else Sensitivities(of_rows=tensors["of_rows"], of_outputs=tensors["of_outputs"]),
        )


@dataclass(frozen=True, kw_only=True)
class ReadsBySlot:
    """The same reads by slot: those of slot s are the entries from starts[s] up to
    starts[s + 1]."""

    rows: Int[Tensor, " entries"]
    """The row of each entry, ascending within a slot; int32."""
    weights: Float[Tensor, " entries"]
    """fp32; the weights of two heads on one slot are added."""
    starts: Int[Tensor, " bounds"]
    num_rows: int

    @staticmethod
    def of(reads: BackgroundReads) -> "ReadsBySlot":
        slots, order = reads.slots.flatten().sort(stable=True)
        rows, weights = order // max(1, reads.slots.shape[1]), reads.weights.flatten()[order]
        is_first = torch.ones(len(slots), dtype=torch.bool)
        is_first[1:] = (slots.diff() != 0) | (rows.diff() != 0)
        entry = is_first.cumsum(0) - 1
        per_slot = torch.bincount(slots[is_first], minlength=reads.num_slots)
        return ReadsBySlot(
            rows=rows[is_first].int(),
            weights=weights.new_zeros(int(is_first.sum())).index_add_(0, entry, weights),
            starts=torch.cat([per_slot.new_zeros(1), per_slot.cumsum(0)]),
            num_rows=len(reads.slots),
        )

    @property
    def num_slots_read(self) -> int:
        """Number of slots with any read."""
        return int((self.starts.diff() > 0).sum())

    def columns(
        self, slots: Int[Tensor, " chosen"]
    ) -> tuple[Int[Tensor, " entries"], Float[Tensor, " entries"], Int[Tensor, " bounds"]]:
        """Rows, weights and starts of these slots alone, in their order."""
        lengths = self.starts[slots + 1] - self.starts[slots]
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        entries = torch.arange(int(starts[-1])) + (self.starts[slots] - starts[:-1]).repeat_interleave(lengths)
        return self.rows[entries], self.weights[entries], starts

    def products(self, slots: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen chosen"]:
        """The sum of w w' over all rows, of these slots; fp64."""
        return kernels_for(self.weights).second_moment(*self.columns(slots), self.num_rows)
