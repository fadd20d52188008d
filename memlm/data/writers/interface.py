"""What is a writer asked, and what does it give back? One text per request, in the order of the
requests."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from memlm.credentials import PublicError


class WriterError(PublicError):
    """A model or its endpoint cannot write what it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt. The same prompt with another seed is another request: a sampled text differs,
    a greedy one does not."""

    prompt: str
    seed: int = 0


class Writer(ABC):
    """A language model that is given instructions."""

    @abstractmethod
    def write(self, requests: Sequence[Request]) -> list[str]:
        """The texts, stripped; an empty one where the model had nothing to say. Raises
        WriterError where it could not be asked."""
