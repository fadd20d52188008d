"""Adapters of the PEFT library, by the names of their kinds. Most are merged into the base's
matrices at the end; a learned prefix stays in front of every text."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from memlm.identity import names_result
from memlm.methods.config import Moves, OptimizerConfig, RehearsingConfig
from memlm.methods.method import FixedParametersMethod, LearningInputs
from memlm.model.config import Architecture
from memlm.names import suggestion

if TYPE_CHECKING:
    from torch import nn

    from memlm.methods.parts.target_modules import TargetModules

PREFIXES = ("cartridge", "p_tuning", "prefix_tuning", "prompt_tuning")
"""Kinds that learn a prefix. A cartridge begins as the keys and values of the facts' statements."""
MERGED = (
    "delora",
    "gralora",
    "hira",
    "hra",
    "ia3",
    "loha",
    "lokr",
    "miss",
    "oft",
    "osf",
    "psoft",
    "randlora",
    "road",
    "shira",
    "vera",
    "waveft",
)
"""Kinds that begin as the base model, act on matrices alone, and are merged into them (LoRA has a
method of its own)."""
KINDS = tuple(sorted([*PREFIXES, *MERGED]))
NUM_VIRTUAL_TOKENS = 20


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(RehearsingConfig):
    """The settings of a method that trains an adapter next to a frozen model."""

    moves: ClassVar[Moves] = "adapters"

    @property
    def learns_prefix(self) -> bool:
        return self.adapter_kind in PREFIXES

    @property
    @abstractmethod
    def adapter_kind(self) -> str:
        """PEFT's name for it, in lower case."""

    @abstractmethod
    def adapter_settings(self, modules: TargetModules) -> dict[str, Any]:
        """The fields of PEFT's own config, for a model with these modules."""

    def build(self, model: nn.Module, inputs: LearningInputs) -> FixedParametersMethod:
        from memlm.methods.parts.adapters import LearnedPrefix, MergedAdapter

        if self.learns_prefix:
            return LearnedPrefix(model, self, inputs)
        method = MergedAdapter(model, self, seed=inputs.seed, num_steps=inputs.num_steps)
        method.rehearse(self.rehearsal, inputs)
        return method


@dataclass(frozen=True, kw_only=True)
class PeftConfig(AdapterConfig):
    """An adapter of any kind that PEFT offers: (IA)3, OSF, prefix tuning, cartridges and others."""

    name: ClassVar[str] = "peft"
    base: ClassVar[Architecture] = "dense"

    kind: str = names_result("ia3")
    """The kind in PEFT's own words, in lower case: ia3, osf, prefix_tuning, cartridge, vera, ..."""
    settings: tuple[str, ...] = names_result(())
    """Fields of the kind's config in PEFT as name=value, the value as JSON: num_virtual_tokens=64
    init_weights=true. Those left out have PEFT's own defaults; target_modules are the matrices of
    all layers that suit the kind, and num_virtual_tokens is 20."""
    optimizer: OptimizerConfig = names_result(OptimizerConfig(learning_rate=1e-3))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            own = "; LoRA is the method lora" if self.kind == "lora" else ""
            raise ValueError(f"method.kind is {self.kind!r}; {suggestion(self.kind, KINDS)}{own}")
        for written in self.settings:
            if not written.partition("=")[0].isidentifier() or "=" not in written:
                raise ValueError(
                    f"method.settings holds {written!r}; write each as name=value, such as num_virtual_tokens=64"
                )
        if self.settings:  # PEFT knows which fields there are, and takes seconds to import
            from memlm.methods.parts.adapters import require_fields

            require_fields(self.kind, self.written_settings)
        if self.learns_prefix and (self.rehearsal.kind != "none" or self.update_scale != 1):
            raise ValueError(
                f"method.kind is {self.kind}, a prefix, which has no rehearsal and no scale; set method.rehearsal.kind to none and "
                "method.update_scale to 1"
            )
        if self.rehearsal.kind in ("ewc", "l2_sp"):
            raise ValueError(
                f"method.rehearsal.kind is {self.rehearsal.kind}, which measures the changes of matrices, and {self.kind} does not give them "
                "while it learns; set it to none, replay or distillation"
            )

    @property
    def label(self) -> str:
        """The name in comparisons begins with the kind: each is a method of its own."""
        return f"{self.kind}{super().label.removeprefix(self.name)}"

    @property
    def adapter_kind(self) -> str:
        return self.kind

    @property
    def written_settings(self) -> dict[str, Any]:
        return {name: _value(text) for name, _, text in (written.partition("=") for written in self.settings)}

    def adapter_settings(self, modules: TargetModules) -> dict[str, Any]:
        return {**_suited(self.kind, modules), **self.written_settings}


def _suited(kind: str, modules: TargetModules) -> dict[str, Any]:
    """What a kind of adapter acts on unless it is told otherwise."""
    if kind in PREFIXES:
        return {"num_virtual_tokens": NUM_VIRTUAL_TOKENS}
    if kind == "ia3":
        last = list(modules.last_of_feed_forward)
        return {"target_modules": [*modules.keys_and_values, *last], "feedforward_modules": last}
    return {"target_modules": [*modules.attention, *modules.feed_forward]}


def _value(text: str) -> Any:
    """The value of a setting: JSON, or else a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
