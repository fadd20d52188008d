"""The interface between the one finetuning loop and the methods.

A step is: choose what may move in this batch -> forward and backward over the micro-batches ->
update. The loop owns the forward passes and the loss; a method owns the rest, so no loop asks
which method it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from memlm.methods.config import OptimizerConfig, RehearsalConfig

if TYPE_CHECKING:  # a command line is checked without torch
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from memlm.data.questions.facts import FactBatch
    from memlm.data.questions.records import Fact, Question
    from memlm.methods.parts.rehearsal import BackgroundText, Rehearsal
    from memlm.model.reader import Recording
    from memlm.slots.counts import BackgroundCounts
    from memlm.slots.reads import BackgroundReads


@dataclass(frozen=True, kw_only=True)
class LearningInputs:
    """Inputs of a method, in addition to its settings and the model."""

    background: BackgroundCounts | None
    """How often background text reads each slot; None for a model without a memory."""
    seed: int
    facts: Sequence[Fact] = ()
    """The facts of the stream, for methods that look them up."""
    text: BackgroundText | None = None
    """Pretraining text, for methods that rehearse it."""
    recording: Recording | None = None
    """A recording of the base model, for methods that move values alone."""
    num_steps: int = 0
    """The number of steps of the stream, for methods with a schedule."""
    reads: BackgroundReads | None = None
    """What background text reads together, for methods that use it."""
    statements: Callable[[str], FactBatch] | None = None
    """All statements of a fact of the stream, by its id, as one batch."""


class Method(ABC):
    """One way to let a model learn. Made for one model and one stream; holds its optimizer's
    state."""

    model: nn.Module
    """The module to run: the model itself, or the model with adapters in it."""
    selected_slots: Int[Tensor, " trainable"] | None = None
    """The slots that the last step was allowed to move, ascending; None for a method that selects
    none."""
    learns: ClassVar[bool] = True
    """Whether the method takes steps; a frozen method takes none."""

    def context_of(self, question: Question) -> str:
        """The text put before a question when the learned model is asked; empty for methods that
        write to weights."""
        return ""

    @property
    def learning_model(self) -> nn.Module:
        """The model in the middle of the stream, in the base model's own form, for reading only."""
        return self.model

    @contextmanager
    def step(self, batches: list[FactBatch]) -> Iterator[dict[str, float]]:
        """The context of one step: enter, run forward and backward over its micro-batches, leave to
        update.

        Yields a dict to which the method adds its report of the step.
        """
        report: dict[str, float] = {}
        try:
            self.choose(batches, report)
            yield report
            self.update()
        finally:
            self.close_step()

    def logits(self, batch: FactBatch) -> Float[Tensor, "wordings seq vocab"]:
        """The forward pass over a micro-batch of the step, as the method runs its model."""
        return self.model(input_ids=batch.tokens, use_cache=False).logits

    @abstractmethod
    def choose(self, batches: list[FactBatch], report: dict[str, float]) -> None:
        """Decide what may move in this step; methods that always move the same things do
        nothing."""

    @abstractmethod
    def update(self) -> None:
        """Move the chosen parameters along their gradients, and clear the gradients."""

    def close_step(self) -> None:
        """Clear the state of the step, also when it failed; most methods have none."""
        return

    @abstractmethod
    def finish(self) -> nn.Module:
        """The learned model in the base model's own form."""


class FixedParametersMethod(Method):
    """A method that moves the same parameters in every step: those that require a gradient."""

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, *, num_steps: int = 0) -> None:
        """`num_steps` is the length of the stream, which a schedule needs."""
        self.model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(self.parameters, optimizer)
        self.schedule = build_schedule(self.optimizer, optimizer, num_steps)
        self.rehearsal: Rehearsal | None = None

    def rehearse(self, config: RehearsalConfig, inputs: LearningInputs) -> None:
        """Add the rehearsal that the config asks for to every step from now on."""
        if config.kind == "none":
            return
        from memlm.methods.parts.rehearsals import build_rehearsal

        if inputs.text is None and config.kind != "l2_sp":
            raise ValueError(
                f"method.rehearsal.kind is {config.kind}, and there is no background text; give the corpus's blocks"
            )
        self.rehearsal = build_rehearsal(config, self.model, inputs.text, seed=inputs.seed)

    def choose(self, batches: list[FactBatch], report: dict[str, float]) -> None:
        report["num_trainable_parameters"] = sum(parameter.numel() for parameter in self.parameters)

    def update(self) -> None:
        if self.rehearsal is not None:
            self.rehearsal.add_gradients()
        for parameter in self.parameters:
            sum_over_ranks(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule is not None:
            self.schedule.step()

    def finish(self) -> nn.Module:
        return self.model


class FrozenMethod(Method):
    """A method that writes to no weight: the base model answers, with text before the question."""

    learns = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model.requires_grad_(False)

    def choose(self, batches: list[FactBatch], report: dict[str, float]) -> None:
        raise AssertionError("a frozen method takes no step")

    def update(self) -> None:
        raise AssertionError("a frozen method takes no step")

    def finish(self) -> nn.Module:
        return self.model


def build_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    import torch

    if config.kind == "sgd":
        return torch.optim.SGD(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, num_steps: int
) -> torch.optim.lr_scheduler.LambdaLR | None:
    """The schedule of the learning rate over that many steps, none of them at a rate of 0; None for
    a constant rate. Raises ValueError if there are no steps."""
    import torch

    if config.schedule == "constant":
        return None
    if num_steps < 1:
        raise ValueError(
            f"method.optimizer.schedule is {config.schedule}, which needs the number of steps, and the stream has {num_steps}; "
            "give a stream with steps, or set the schedule to constant"
        )
    warmup = min(int(config.warmup_share * num_steps), num_steps - 1)

    def share(step: int) -> float:
        """The share of the highest rate, for a step counted from 0."""
        return min((step + 1) / (warmup + 1), (num_steps - step) / (num_steps - warmup))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def sum_over_ranks(tensor: Tensor | None) -> None:
    """Add up a gradient over the ranks, in place. The loss is already a mean over all ranks'
    tokens."""
    import torch.distributed as dist

    from memlm.model.ranks import num_ranks

    if tensor is not None and num_ranks() > 1:
        dist.all_reduce(tensor)
