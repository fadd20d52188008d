"""How is a model asked that runs elsewhere? Any OpenAI-compatible endpoint, by chat completions
over HTTP.

What may pass (a timeout, a broken connection, status 429 or 5xx, an answer that is none) is
tried again a bounded number of times, with pauses drawn at random so that many workers do not
come back at once; what will not pass is an error that names its remedy.
"""

import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from memlm.credentials import HIDDEN, read_key, without_secrets
from memlm.data.writers.budget import Budget
from memlm.data.writers.config import WriterConfig
from memlm.data.writers.interface import Request, Writer, WriterError

MAX_ANSWER_BYTES = 4 * 2**20  # a chat completion has a few kB; what goes on beyond this is something else
SHOWN_CHARACTERS = 200  # of what a server says, in an error
SEARCHED_CHARACTERS = 20_000  # of it, for addresses with passwords: in a text of megabytes the search takes minutes


class EndpointError(WriterError):
    """The endpoint gives no answer that can be used."""


class _Passing(Exception):
    """A fault that may be gone at the next attempt."""

    def __init__(self, problem: str, remedy: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.wait_seconds = problem, remedy, wait_seconds


class EndpointWriter(Writer):
    """Asks num_connections requests at a time; any one that fails for good ends the others that
    have not begun."""

    def __init__(self, config: WriterConfig, budget: Budget) -> None:
        self.config, self.settings, self.budget = config, config.endpoint, budget
        self.url = f"{self.settings.base_url.rstrip('/')}/chat/completions"
        self._key = read_key(self.settings.api_key_variable)

    def write(self, requests: Sequence[Request]) -> list[str]:
        with ThreadPoolExecutor(self.settings.num_connections) as pool:
            asked = [pool.submit(self._ask, request) for request in requests]
            try:
                return [one.result() for one in asked]
            finally:
                for one in asked:
                    one.cancel()

    def _ask(self, request: Request) -> str:
        for attempt in range(1, self.settings.num_attempts + 1):
            self.budget.take_request()
            try:
                return self._answer(request)
            except _Passing as fault:
                if attempt == self.settings.num_attempts:
                    raise EndpointError(
                        f"{self.url}: {fault.problem}, at the last of {attempt} attempts; {fault.remedy}. What is finished is kept."
                    ) from fault
                time.sleep(self._pause(attempt, fault.wait_seconds))
        raise AssertionError("there is at least one attempt")

    def _answer(self, request: Request) -> str:
        """One attempt."""
        status, headers, body = self._post(request)
        if status != 200:
            raise self._fault(status, headers, body)
        try:
            answer = json.loads(body)
            text = answer["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise _Passing(
                f"answers what is no chat completion ({type(error).__name__}: {error}): {self._shown(body)}",
                "check that writer.endpoint.base_url is the address of an OpenAI-compatible server, up to /v1",
            ) from error
        self._count(answer)
        if not isinstance(text, str) or not text.strip():
            raise _Passing(
                "answers with an empty text",
                "raise writer.max_new_tokens, which a model that thinks first may use up, or name another writer.model",
            )
        if "\0" in text or not _is_unicode(text):
            raise _Passing(
                "answers with a text that holds NUL or half a surrogate pair, which no tokenizer reads",
                "look at the server's own log, or name another writer.model",
            )
        return text.strip()

    def _post(self, request: Request) -> tuple[int, Any, bytes]:
        settings = self.settings
        content = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "max_tokens": self.config.max_new_tokens,
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            "seed": (self.config.seed * 1_000_003 + request.seed) % 2**31,
        }
        ends = time.monotonic() + settings.timeout_seconds
        try:
            with requests.post(
                self.url,
                json=content,
                auth=self._sign,
                timeout=settings.timeout_seconds,
                allow_redirects=False,
                stream=True,
            ) as response:
                return response.status_code, response.headers, self._read(response, ends)
        except requests.exceptions.ContentDecodingError as error:
            raise _Passing(
                "answers with a body that is not what its Content-Encoding says",
                "check writer.endpoint.base_url and every proxy on the way to it",
            ) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if isinstance(error, requests.Timeout) or time.monotonic() >= ends:
                raise _Passing(
                    f"no whole answer within {settings.timeout_seconds:g} s",
                    "raise writer.endpoint.timeout_seconds, lower writer.endpoint.num_connections, or check the server",
                ) from error
            raise _Passing(
                f"the connection fails ({type(error).__name__})",
                "check writer.endpoint.base_url, and that the server runs and can be reached from every node",
            ) from error
        except requests.RequestException as error:  # an address, a header or a proxy that cannot be used
            raise EndpointError(
                f"{self.url}: cannot be asked ({type(error).__name__}); correct writer.endpoint.base_url, or the proxy in HTTPS_PROXY"
            ) from error

    def _read(self, response: requests.Response, ends: float) -> bytes:
        """The body. requests' own timeout runs anew with every byte; ours bounds the whole,
        against a server that drips."""
        body = bytearray()
        for piece in response.iter_content(chunk_size=1):  # a larger piece would be waited for
            body += piece
            if time.monotonic() > ends:
                raise requests.Timeout
            if len(body) > MAX_ANSWER_BYTES:
                raise EndpointError(
                    f"{self.url}: answers with more than {MAX_ANSWER_BYTES} bytes; check writer.endpoint.base_url"
                )
        return bytes(body)

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Given even without a key: else requests would send what it finds for this host in
        # ~/.netrc.
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _fault(self, status: int, headers: Any, body: bytes) -> Exception:
        said = f"answers {status}: {self._shown(body)}"
        variable = self.settings.api_key_variable
        if status == 429:
            wait = _seconds_to_wait(headers.get("Retry-After"))
            longest = self.settings.max_wait_seconds
            if wait is not None and wait > longest:
                return EndpointError(
                    f"{self.url}: answers 429 and asks to wait {wait:.0f} s, more than writer.endpoint.max_wait_seconds ({longest:g}); "
                    "run the same command again later: what is finished is kept"
                )
            return _Passing(
                said, "lower writer.endpoint.num_connections, or run the command again later", wait_seconds=wait
            )
        if status >= 500 or status == 408:
            wait = _seconds_to_wait(headers.get("Retry-After"))
            return _Passing(said, "look at the server's own log, or run the command again later", wait_seconds=wait)
        remedies = {
            400: "correct the writer's settings; a prompt beyond the model's context needs shorter chunks (questions.documents.chunk_tokens)",
            401: f"put a valid key into the environment variable {variable}, on every node",
            403: f"the key in the environment variable {variable} may not do this; use another key or model",
            404: "check writer.endpoint.base_url (up to /v1) and writer.model",
        }
        return EndpointError(
            f"{self.url}: {said}; {remedies.get(status, 'correct writer.endpoint.base_url or writer.model')}"
        )

    def _count(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
            self.budget.add_tokens(tokens)
        elif self.settings.max_tokens:
            raise EndpointError(
                f"{self.url}: the answer does not say how many tokens it took (usage.total_tokens, a whole number from 0), so writer.endpoint.max_tokens "
                f"({self.settings.max_tokens}) cannot be kept; set it to 0 and bound writer.endpoint.max_requests"
            )

    def _pause(self, attempt: int, asked: float | None) -> float:
        longest = min(self.settings.max_wait_seconds, self.settings.backoff_seconds * 2 ** (attempt - 1))
        return min(asked or 0.0, self.settings.max_wait_seconds) + random.uniform(0, longest)

    def _shown(self, body: bytes) -> str:
        """What a server says, short, on one line, and without keys and passwords, which some
        repeat."""
        text = " ".join(body.decode(errors="replace").split())
        text = (text.replace(self._key, HIDDEN) if self._key else text)[:SEARCHED_CHARACTERS]
        return repr(without_secrets(text)[:SHOWN_CHARACTERS])


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _seconds_to_wait(header: str | None) -> float | None:
    """Retry-After: seconds, or a date; None where there is none that can be read."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
