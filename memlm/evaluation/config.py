"""How a model is scored. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    max_new_tokens: int = 10
    """Longest answer, in tokens."""
    batch_size: int = 128
    """Prompts answered, or blocks scored, at once."""
    num_text_blocks: int = 64
    """Blocks of held-out text whose likelihood is measured."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "num_text_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; it must be at least 1")
