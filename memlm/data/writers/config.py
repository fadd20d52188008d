"""Configuration of the writing model: model, sampling and budget. Imports no torch."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from memlm.credentials import has_password, redacted
from memlm.identity import execution_only, identity, names_result


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """An OpenAI-compatible server, used over HTTP (POST base_url/chat/completions)."""

    base_url: str = names_result("")
    """Address such as http://localhost:8000/v1; empty to run the model locally."""
    api_key_variable: str = execution_only("OPENAI_API_KEY")
    """Name of the environment variable with the key, which every node needs; leave the variable
    unset if the server needs no key. The key is never stored or printed."""
    num_connections: int = execution_only(8)
    """Number of simultaneous requests of one worker."""
    timeout_seconds: float = execution_only(120.0)
    """Time limit for one complete answer."""
    num_attempts: int = execution_only(4)
    """Attempts per request. A request is retried after a timeout, a broken connection, status 429
    or 5xx, or an invalid answer."""
    backoff_seconds: float = execution_only(1.0)
    """Upper limit of the first pause; the limit doubles with each attempt. The pause is drawn at
    random below it."""
    max_wait_seconds: float = execution_only(120.0)
    """Longest pause. A server that asks for a longer one (Retry-After) ends the run; run the same
    command later to continue."""
    max_requests: int = execution_only(0)
    """Maximum number of requests of one run of the command, including retries; 0 for no limit."""
    max_tokens: int = execution_only(0)
    """Maximum number of tokens of one run of the command, prompts and answers, as counted by the
    server; 0 for no limit. Answers that are in progress when it is reached are still used."""

    def __post_init__(self) -> None:
        if self.base_url and not _is_web_address(self.base_url):
            raise ValueError(
                f"writer.endpoint.base_url is {redacted(self.base_url)!r}; it must be an http(s) address, such as http://localhost:8000/v1"
            )
        if has_password(self.base_url):
            raise ValueError(
                f"writer.endpoint.base_url is {redacted(self.base_url)!r}; it contains a user name, a password or a query, which would be stored with "
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
                    f"writer.endpoint.{name} is {getattr(self, name)}; it must not be negative (0 for no limit)"
                )


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets without an IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


@dataclass(frozen=True, kw_only=True)
class WriterConfig:
    """The language model that writes wordings and augmentations."""

    model: str = names_result("")
    """A Hugging Face causal model by folder or hub id, or the model's name at the endpoint."""
    revision: str = names_result("")
    """Commit, tag or branch of the model on the hub; empty for the newest. The commit is stored
    with the texts."""
    temperature: float = names_result(0.8)
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: float = names_result(0.95)
    max_new_tokens: int = names_result(512)
    """Maximum length of one answer, in the writer's own tokens."""
    seed: int = names_result(0)
    batch_size: int = execution_only(8)
    """Number of prompts per batch, for a model that runs locally. Sampled texts depend on it, but
    existing texts are reused with any number."""
    items_per_unit: int = execution_only(16)
    """Facts or chunks that a worker finishes and stores together. An interrupted run continues from
    the stored units."""
    endpoint: EndpointConfig = names_result(EndpointConfig())

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"writer.temperature is {self.temperature} and writer.top_p {self.top_p}; the first must not be negative, "
                "the second must be above 0 and at most 1"
            )
        for name in ("max_new_tokens", "batch_size", "items_per_unit"):
            if getattr(self, name) < 1:
                raise ValueError(f"writer.{name} is {getattr(self, name)}; it must be at least 1")

    def provenance(self, revision: str) -> dict[str, Any]:
        """The settings that determine the writer's texts, with the actual revision."""
        named = identity(self)
        del named["revision"]  # the requested revision, such as a branch or nothing
        endpoint = named.pop("endpoint")
        return {**named, "revision": revision, **endpoint}
