"""A trial by its settings: method, stream, evaluation and seed. Imports no torch, so that a plan of
many trials is quick."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from memlm.data.config import StreamChoice
from memlm.evaluation.config import EvaluationConfig
from memlm.identity import identity
from memlm.methods.config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The settings that name a trial's result, together with the artifacts that it reads."""

    method: MethodConfig
    stream: StreamChoice
    evaluation: EvaluationConfig
    seed: int

    def hyperparameters(self) -> dict[str, Any]:
        """The method's settings that its result depends on, flat."""
        return {name: value for name, value in _flat(identity(self.method)) if name != "name"}

    @property
    def title(self) -> str:
        """The method and its learning rate, for people."""
        optimizer = getattr(self.method, "optimizer", None)
        return self.method.label + (f" lr{optimizer.learning_rate:g}" if optimizer else "")

    def key(self, inputs: dict[str, str]) -> str:
        """Names the result: the same trial on the same artifacts has the same key."""
        unused = {"reads": not self.method.uses_reads, "text": not self.method.uses_text}
        read = {name: digest for name, digest in inputs.items() if not unused.get(name)}
        content = {"trial": identity(self), "method": self.method.name, "inputs": read}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
