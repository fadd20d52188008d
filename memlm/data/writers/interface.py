"""The interface of writers: one text per request, in the order of the requests."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from memlm.credentials import PublicError


class WriterError(PublicError):
    """A model or its endpoint cannot write the requested text."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt. The same prompt with another seed is a different request: a sampled text differs,
    a greedy one does not."""

    prompt: str
    seed: int = 0


class Writer(ABC):
    """A language model that follows instructions."""

    @abstractmethod
    def write(self, requests: Sequence[Request]) -> list[str]:
        """The texts, stripped; an empty one if the model wrote nothing. Raises WriterError if the
        model could not be asked."""
