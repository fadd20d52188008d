"""Which model writes, how it chooses its words, and what it may cost. Imports no torch."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from memlm.credentials import has_password, redacted
from memlm.identity import execution_only, identity, names_result


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An OpenAI-compatible server that is asked over HTTP (POST base_url/chat/completions)."""

    base_url: str = names_result("")
    """Such as http://localhost:8000/v1; empty to run the model here."""
    api_key_variable: str = execution_only("OPENAI_API_KEY")
    """The environment variable with the key, on every node; unset for a server that needs none.
    The key is stored and printed nowhere."""
    num_connections: int = execution_only(8)
    """Requests of one worker that wait for an answer at a time."""
    timeout_seconds: float = execution_only(120.0)
    """For one whole answer."""
    num_attempts: int = execution_only(4)
    """Of one request: after a timeout, a broken connection, status 429 or 5xx, or an answer that
    is none."""
    backoff_seconds: float = execution_only(1.0)
    """The first pause is at most so long, each later one up to twice the one before; drawn at
    random below that."""
    max_wait_seconds: float = execution_only(120.0)
    """The longest pause. A server that asks for a longer one (Retry-After) ends the run; the
    same command continues from there later."""
    max_requests: int = execution_only(0)
    """Budget of one run of the command, every attempt counted; 0 for none."""
    max_tokens: int = execution_only(0)
    """Budget of one run of the command, of prompts and answers as the server counts them; 0 for
    none. Answers that are under way when it is spent still come in."""

    def __post_init__(self) -> None:
        if self.base_url and not _is_web_address(self.base_url):
            raise ValueError(
                f"writer.endpoint.base_url is {redacted(self.base_url)!r}; it must be an http(s) address, such as http://localhost:8000/v1"
            )
        if has_password(self.base_url):
            raise ValueError(
                f"writer.endpoint.base_url is {redacted(self.base_url)!r}; it holds a user name or password, or a query, which would be stored with "
                "the results; put the key into the environment variable that writer.endpoint.api_key_variable names"
            )
        if self.api_key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_variable):
            raise ValueError(
                "writer.endpoint.api_key_variable is not the name of an environment variable (letters, digits and _); give the name of the variable "
                "that holds the key, never the key itself"
            )
        for name in ("num_connections", "num_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"writer.endpoint.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("timeout_seconds", "backoff_seconds", "max_wait_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"writer.endpoint.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("max_requests", "max_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"writer.endpoint.{name} is {getattr(self, name)}; it must not be negative (0 for none)"
                )


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that are no IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """The language model that writes wordings and augmentations."""

    model: str = names_result("")
    """A Hugging Face causal model by folder or hub id, or the name that the endpoint knows it
    by."""
    revision: str = names_result("")
    """Of the model on the hub: a commit, tag or branch; empty for the newest. The commit is
    stored with what it wrote."""
    temperature: float = names_result(0.8)
    """0 takes the likeliest word each time."""
    top_p: float = names_result(0.95)
    max_new_tokens: int = names_result(512)
    """Of one answer, in the writer's own tokens."""
    seed: int = names_result(0)
    batch_size: int = execution_only(8)
    """Prompts at a time, of a model that runs here."""
    items_per_unit: int = execution_only(16)
    """Facts or chunks that a worker finishes and stores together. A run that was cut off
    continues from the units that are stored."""
    endpoint: EndpointConfig = names_result(EndpointConfig())

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"writer.temperature is {self.temperature} and writer.top_p {self.top_p}; the first must not be negative, "
                "the second lie above 0 and be at most 1"
            )
        for name in ("max_new_tokens", "batch_size", "items_per_unit"):
            if getattr(self, name) < 1:
                raise ValueError(f"writer.{name} is {getattr(self, name)}; it must be at least 1")

    def provenance(self, revision: str) -> dict[str, Any]:
        """The settings that decide what this writer says, with the revision that was found."""
        named = identity(self)
        del named["revision"]  # what was asked for: a branch, or nothing
        endpoint = named.pop("endpoint")
        return {**named, "revision": revision, **endpoint}
