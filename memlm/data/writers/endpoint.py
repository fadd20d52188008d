"""Write with a model on another server: any OpenAI-compatible endpoint, through chat completions
over HTTP.

Transient faults (a timeout, a broken connection, status 429 or 5xx, an invalid answer) are retried
a limited number of times, with random pauses so that many workers do not retry at once. Other
faults are errors that name their remedy.
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

MAX_ANSWER_BYTES = 4 * 2**20  # a chat completion has a few kB; anything larger is something else
SHOWN_CHARACTERS = 200  # length of the server's answer in an error message
SEARCHED_CHARACTERS = 20_000  # length searched for addresses with passwords, which is slow in a text of megabytes


class EndpointError(WriterError):
    """The endpoint gives no usable answer."""


class _TransientFault(Exception):
    """A fault that may not recur at the next attempt."""

    def __init__(self, problem: str, remedy: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.wait_seconds = problem, remedy, wait_seconds


class EndpointWriter(Writer):
    """Sends num_connections requests at a time. If one fails for good, those that have not begun
    are cancelled."""

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
            except _TransientFault as fault:
                if attempt == self.settings.num_attempts:
                    raise EndpointError(
                        f"{self.url}: {fault.problem}, in the last of {attempt} attempts; {fault.remedy}. Finished work is kept."
                    ) from fault
                time.sleep(self._pause(attempt, fault.wait_seconds))
        raise AssertionError("there is at least one attempt")

    def _answer(self, request: Request) -> str:
        """The answer of one attempt."""
        status, headers, body = self._post(request)
        if status != 200:
            raise self._fault(status, headers, body)
        try:
            answer = json.loads(body)
            text = answer["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise _TransientFault(
                f"its answer is not a chat completion ({type(error).__name__}: {error}): {self._shown(body)}",
                "check that writer.endpoint.base_url is the address of an OpenAI-compatible server, up to /v1",
            ) from error
        self._count(answer)
        if not isinstance(text, str) or not text.strip():
            raise _TransientFault(
                "its answer is an empty text",
                "raise writer.max_new_tokens, which a reasoning model may use up, or name another writer.model",
            )
        if "\0" in text or not _is_unicode(text):
            raise _TransientFault(
                "its answer contains NUL or half a surrogate pair, which no tokenizer can read",
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
            raise _TransientFault(
                "the body of its answer does not match its Content-Encoding",
                "check writer.endpoint.base_url and every proxy on the way to it",
            ) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if isinstance(error, requests.Timeout) or time.monotonic() >= ends:
                raise _TransientFault(
                    f"no complete answer within {settings.timeout_seconds:g} s",
                    "raise writer.endpoint.timeout_seconds, lower writer.endpoint.num_connections, or check the server",
                ) from error
            raise _TransientFault(
                f"the connection fails ({type(error).__name__})",
                "check writer.endpoint.base_url, and that the server is running and every node can reach it",
            ) from error
        except requests.RequestException as error:  # an unusable address, header or proxy
            raise EndpointError(
                f"{self.url}: the request cannot be sent ({type(error).__name__}); correct writer.endpoint.base_url, or the proxy in HTTPS_PROXY"
            ) from error

    def _read(self, response: requests.Response, ends: float) -> bytes:
        """The body. The timeout of requests restarts with every byte; ours limits the total time,
        in case a server sends very slowly."""
        body = bytearray()
        for piece in response.iter_content(chunk_size=1):  # a larger piece would delay the check of the time
            body += piece
            if time.monotonic() > ends:
                raise requests.Timeout
            if len(body) > MAX_ANSWER_BYTES:
                raise EndpointError(
                    f"{self.url}: its answer has more than {MAX_ANSWER_BYTES} bytes; check writer.endpoint.base_url"
                )
        return bytes(body)

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Set even without a key: otherwise requests would send credentials for this host from
        # ~/.netrc.
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _fault(self, status: int, headers: Any, body: bytes) -> Exception:
        problem = f"its answer has status {status}: {self._shown(body)}"
        variable = self.settings.api_key_variable
        if status == 429:
            wait = _seconds_to_wait(headers.get("Retry-After"))
            longest = self.settings.max_wait_seconds
            if wait is not None and wait > longest:
                return EndpointError(
                    f"{self.url}: its answer has status 429 and asks to wait {wait:.0f} s, more than writer.endpoint.max_wait_seconds ({longest:g}); "
                    "run the same command again later: finished work is kept"
                )
            return _TransientFault(
                problem, "lower writer.endpoint.num_connections, or run the command again later", wait_seconds=wait
            )
        if status >= 500 or status == 408:
            wait = _seconds_to_wait(headers.get("Retry-After"))
            return _TransientFault(
                problem, "look at the server's own log, or run the command again later", wait_seconds=wait
            )
        remedies = {
            400: "correct the writer's settings; if a prompt exceeds the model's context, make the chunks shorter (questions.documents.chunk_tokens)",
            401: f"put a valid key into the environment variable {variable}, on every node",
            403: f"the key in the environment variable {variable} does not permit this; use another key or model",
            404: "check writer.endpoint.base_url (up to /v1) and writer.model",
        }
        return EndpointError(
            f"{self.url}: {problem}; {remedies.get(status, 'correct writer.endpoint.base_url or writer.model')}"
        )

    def _count(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0:
            self.budget.add_tokens(tokens)
        elif self.settings.max_tokens:
            raise EndpointError(
                f"{self.url}: its answer does not give the number of tokens (usage.total_tokens, a whole number from 0), so writer.endpoint.max_tokens "
                f"({self.settings.max_tokens}) cannot be enforced; set it to 0 and limit writer.endpoint.max_requests"
            )

    def _pause(self, attempt: int, asked: float | None) -> float:
        longest = min(self.settings.max_wait_seconds, self.settings.backoff_seconds * 2 ** (attempt - 1))
        return min(asked or 0.0, self.settings.max_wait_seconds) + random.uniform(0, longest)

    def _shown(self, body: bytes) -> str:
        """The server's answer, shortened to one line, without keys and passwords, which some
        servers repeat."""
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
    """Seconds to wait according to Retry-After, which holds seconds or a date; None if it is
    missing or invalid."""
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
