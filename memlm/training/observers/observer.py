"""The interface of an observer of a stream."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from memlm.data.questions.facts import FactBatch
from memlm.methods.method import Method
from memlm.training.step import StepResult


class StreamObserver:
    """An observer of a stream as it is learned. It may run the model, but must leave the model, its
    mode and every generator as they were."""

    def on_start(self, method: Method) -> None:
        """Called before the first step."""

    def on_step(self, step: int, batch: FactBatch, result: StepResult, method: Method) -> None:
        """After each step, counted from 1."""

    def on_end(self, learned: nn.Module) -> None:
        """Called with the learned model in the base model's form."""


NULL_OBSERVER = StreamObserver()


class Observers(StreamObserver):
    """Several observers, called in turn."""

    def __init__(self, observers: Sequence[StreamObserver]) -> None:
        self.observers = observers

    def on_start(self, method: Method) -> None:
        for observer in self.observers:
            observer.on_start(method)

    def on_step(self, step: int, batch: FactBatch, result: StepResult, method: Method) -> None:
        for observer in self.observers:
            observer.on_step(step, batch, result, method)

    def on_end(self, learned: nn.Module) -> None:
        for observer in self.observers:
            observer.on_end(learned)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the context, the model is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
