"""Settings of the scoring of a model. Imports no torch."""

from dataclasses import dataclass

from memlm.identity import execution_only, names_result


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    max_new_tokens: int = names_result(10)
    """Longest answer, in tokens."""
    max_solution_tokens: int = names_result(256)
    """Longest worked solution of GSM8K's problems; 0 scores the likelihood of the set's
    solutions alone and writes none."""
    max_chat_tokens: int = names_result(24, when=lambda config: config.max_chat_tokens != 24)
    """Longest reply in the task chat, in tokens."""
    seen_wordings: bool = names_result(False, when=lambda config: config.seen_wordings)
    """Also measure learning in the wordings that were learned: the learned model completes those
    that end in the answer, standing behind nothing, as it learned them."""
    batch_size: int = execution_only(128)
    """Prompts answered, or blocks scored, at once."""
    num_text_blocks: int = names_result(64)
    """Blocks of held-out text whose likelihood is measured."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_chat_tokens", "batch_size", "num_text_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_solution_tokens < 0:
            raise ValueError(
                f"evaluation.max_solution_tokens is {self.max_solution_tokens}; it must not be negative (0 writes no solutions)"
            )
