import logging
import time
from email.utils import formatdate
from typing import Any

import pytest

from memlm.data.writers.budget import Budget, BudgetSpent
from memlm.data.writers.config import EndpointConfig, WriterConfig
from memlm.data.writers.endpoint import EndpointError, EndpointWriter
from memlm.data.writers.interface import Request
from tests.support.serving import breaks_off, drips, echo, hangs_up, raw, says, send, serving, sleeps, status

KEY_VARIABLE = "MEMLM_TEST_KEY"


def writer_at(url: str, *, max_requests: int = 0, max_tokens: int = 0, **endpoint: Any) -> EndpointWriter:
    settings = {"timeout_seconds": 0.4, "num_attempts": 3, "backoff_seconds": 0.01, "max_wait_seconds": 5.0, **endpoint}
    endpoint_config = EndpointConfig(
        base_url=url, api_key_variable=KEY_VARIABLE, max_requests=max_requests, max_tokens=max_tokens, **settings
    )
    config = WriterConfig(model="some-model", seed=3, endpoint=endpoint_config)
    return EndpointWriter(config, Budget(max_requests=max_requests, max_tokens=max_tokens))


def ask(writer: EndpointWriter, *prompts: str) -> list[str]:
    return writer.write([Request(prompt=prompt) for prompt in prompts or ("Hello",)])


def test_texts_are_returned_in_the_order_of_the_requests():
    with serving(echo) as server:
        assert ask(writer_at(server.url), *map(str, range(10))) == [f"about {i}" for i in range(10)]


def test_the_request_is_a_chat_completion_with_the_settings_and_a_seed_of_its_own():
    with serving(says(" a text\n")) as server:
        writer = writer_at(f"{server.url}/")
        assert writer.write([Request(prompt="Say it", seed=1)]) == ["a text"]
        writer.write([Request(prompt="Say it", seed=2)])
    (path, first), (_, second) = server.asked
    assert path == "/v1/chat/completions"
    assert first["model"] == "some-model" and first["messages"] == [{"role": "user", "content": "Say it"}]
    assert first["seed"] != second["seed"] and {**first, "seed": 0} == {**second, "seed": 0}
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.8, 0.95, 512)


PASSING = {
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "times out": sleeps(0.6),
    "drips": drips,
    "hangs up": hangs_up,
    "breaks off": breaks_off,
    "a page instead of JSON": raw(b"<html>Gateway</html>"),
    "JSON, not an object": raw(b"[1, 2]"),
    "no choices": raw(b'{"choices": []}'),
    "no message": raw(b'{"choices": [{"text": "old style"}]}'),
    "not UTF-8": raw(b"\xff\xfe{"),
    "empty text": says("  \n"),
    "no text": raw(b'{"choices": [{"message": {"content": null}}]}'),
    "brackets without end": raw(b"[" * 5_000),
    "half a surrogate pair": raw(b'{"choices": [{"message": {"content": "a \\ud800"}}]}'),
    "NUL": raw(b'{"choices": [{"message": {"content": "a \\u0000 b"}}]}'),
    "no gzip": status(200, b"\x1f\x8b not gzip at all", Content_Encoding="gzip"),
    "no deflate": status(200, b"not deflate", Content_Encoding="deflate"),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_transient_fault_is_retried(fault: str):
    with serving(PASSING[fault], PASSING[fault], says("there it is")) as server:
        assert ask(writer_at(server.url)) == ["there it is"]
    assert len(server.asked) == 3


REMEDIES = {
    "429": "its answer has status 429.*num_connections",
    "500": "its answer has status 500.*server's own log",
    "times out": "no complete answer within 0.4 s.*timeout_seconds",
    "drips": "no complete answer within 0.4 s.*timeout_seconds",
    "hangs up": "the connection fails.*base_url",
    "breaks off": "the connection fails.*base_url",
    "a page instead of JSON": "not a chat completion.*Gateway.*base_url",
    "no choices": "not a chat completion.*IndexError.*base_url",
    "no message": "not a chat completion.*message.*base_url",
    "empty text": "empty text.*max_new_tokens",
    "no text": "empty text.*max_new_tokens",
    "brackets without end": "not a chat completion.*base_url",
    "half a surrogate pair": "half a surrogate pair.*writer.model",
    "NUL": "contains NUL.*writer.model",
    "no gzip": "Content-Encoding.*base_url.*proxy",
    "no deflate": "Content-Encoding.*base_url.*proxy",
}


@pytest.mark.parametrize("fault", REMEDIES)
def test_a_persistent_fault_is_an_error_with_its_remedy_after_the_last_attempt(fault: str):
    with (
        serving(PASSING[fault]) as server,
        pytest.raises(EndpointError, match=f"{REMEDIES[fault]}.*inished work is kept"),
    ):
        ask(writer_at(server.url))
    assert len(server.asked) == 3


FINAL = {
    400: "its answer has status 400.*context.*chunk_tokens",
    401: f"its answer has status 401.*environment variable {KEY_VARIABLE}",
    403: f"its answer has status 403.*{KEY_VARIABLE}",
    404: "its answer has status 404.*base_url.*writer.model",
    302: "its answer has status 302.*base_url",
}


@pytest.mark.parametrize("code", FINAL)
def test_a_permanent_error_is_not_retried(code: int):
    with serving(status(code, Location="http://127.0.0.1:1/elsewhere")) as server:
        with pytest.raises(EndpointError, match=FINAL[code]):
            ask(writer_at(server.url))
    assert len(server.asked) == 1


def test_a_missing_server_is_reported_with_its_address():
    with serving(says("x")) as server:
        pass
    with pytest.raises(EndpointError, match=f"{server.url}.*the connection fails.*base_url"):
        ask(writer_at(server.url))


def test_retry_after_is_waited_for():
    with serving(status(429, Retry_After="1"), says("now")) as server:
        assert ask(writer_at(server.url)) == ["now"]
    assert server.times[1] - server.times[0] >= 1


def test_retry_after_may_be_a_date():
    with serving(
        lambda h, c: send(h, 503, b"", Retry_After=formatdate(time.time() + 2, usegmt=True)), says("now")
    ) as server:
        assert ask(writer_at(server.url)) == ["now"]
    assert server.times[1] - server.times[0] >= 0.9  # dates have a resolution of one second


def test_a_server_that_asks_for_too_long_a_wait_ends_the_run_at_once():
    with serving(status(429, Retry_After="3600")) as server:
        with pytest.raises(
            EndpointError, match="asks to wait 3600 s.*max_wait_seconds \\(5\\).*run the same command again"
        ):
            ask(writer_at(server.url))
    assert len(server.asked) == 1


def test_pauses_grow_and_are_random():
    writer = writer_at("http://127.0.0.1:1", backoff_seconds=1.0)
    for attempt, longest in ((1, 1.0), (2, 2.0), (4, 5.0)):  # the last is limited by max_wait_seconds
        pauses = [writer._pause(attempt, None) for _ in range(200)]
        assert len(set(pauses)) > 100 and 0.8 * longest < max(pauses) <= longest


def test_no_request_is_sent_beyond_the_budget():
    with serving(says("x")) as server:
        writer = writer_at(server.url, max_requests=5, num_connections=3)
        with pytest.raises(BudgetSpent, match="writer.endpoint.max_requests is 5.*inished work is kept"):
            ask(writer, *map(str, range(50)))
    assert len(server.asked) == 5


def test_every_attempt_counts():
    with serving(status(500)) as server, pytest.raises(BudgetSpent, match="max_requests is 2"):
        ask(writer_at(server.url, max_requests=2))
    assert len(server.asked) == 2


def test_tokens_are_counted_as_the_server_counts_them():
    with serving(says("x", tokens=40)) as server:
        writer = writer_at(server.url, max_tokens=100, num_connections=1)
        with pytest.raises(BudgetSpent, match="max_tokens is 100, and 120 are used"):
            ask(writer, *map(str, range(10)))
    assert len(server.asked) == 3 and writer.budget.used() == {"num_requests": 3, "num_tokens": 120}


@pytest.mark.parametrize(
    "usage", ["null", '{"total_tokens": -5}', '{"total_tokens": true}', '{"total_tokens": "7"}', "[]"]
)
def test_a_token_budget_needs_a_server_that_counts(usage: str):
    answer = raw(b'{"choices": [{"message": {"content": "x"}}], "usage": %s}' % usage.encode())
    with serving(answer) as server:
        assert ask(writer_at(server.url)) == ["x"]
        with pytest.raises(EndpointError, match="usage.total_tokens.*max_tokens \\(100\\).*max_requests"):
            ask(writer_at(server.url, max_tokens=100))


def test_a_permanent_failure_cancels_requests_that_have_not_begun():
    with serving(status(404)) as server, pytest.raises(EndpointError):
        ask(writer_at(server.url, num_connections=2), *map(str, range(100)))
    assert len(server.asked) < 20


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, caplog):
    secret = "sk-very-secret-1234"
    monkeypatch.setenv(KEY_VARIABLE, secret)
    caplog.set_level(logging.DEBUG)
    with serving(says("x"), status(401, f'{{"error": "Incorrect API key provided: {secret}"}}'.encode())) as server:
        writer = writer_at(server.url)
        ask(writer)
        with pytest.raises(EndpointError, match=r"key provided: \*\*\*") as refused:
            ask(writer)
    assert server.headers[0]["Authorization"] == f"Bearer {secret}"
    assert secret not in str(refused.value) + caplog.text + repr(writer.config) + str(writer.config.provenance(""))


@pytest.mark.parametrize("around", ["\n", "\r\n", " ", "\n\n"])
def test_white_space_around_a_key_is_not_sent(monkeypatch, around):
    monkeypatch.setenv(KEY_VARIABLE, f"{around}sk-very-secret-1234{around}")
    with serving(says("x")) as server:
        assert ask(writer_at(server.url)) == ["x"]
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret-1234"


@pytest.mark.parametrize(
    "key", ["sk-very\nsecret", "sk-very\x07secret", "sk-very\u202esecret", "\u201csk-very-secret\u201d"]
)
def test_an_invalid_key_is_refused_before_anything_is_sent_naming_only_its_variable(monkeypatch, key):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with serving(says("x")) as server, pytest.raises(ValueError, match=f"variable {KEY_VARIABLE} contains") as refused:
        ask(writer_at(server.url))
    assert "secret" not in str(refused.value) and not server.asked


def test_addresses_and_keys_repeated_by_a_server_are_not_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another-secret")
    said = b'{"error": "proxy http://user:secret@inside refused hf_another-secret, see https://h/x?token=secret"}'
    with serving(status(401, said)) as server, pytest.raises(EndpointError) as refused:
        ask(writer_at(server.url))
    assert "secret" not in str(refused.value) and "...@inside" in str(refused.value)


def test_without_a_key_none_is_sent_even_where_netrc_has_one(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with serving(says("x")) as server:
        ask(writer_at(server.url))
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("base_url", "localhost:8000/v1", "must be an http"),
        ("base_url", "ftp://host/v1", "must be an http"),
        ("base_url", "http://user:secret@host/v1", "a user name, a password or a query"),
        ("base_url", "https://host/v1?api-key=secret", "a query"),
        ("api_key_variable", "sk-secret-key", "never the key itself"),
        ("num_attempts", 0, "at least 1"),
        ("timeout_seconds", 0.0, "above 0"),
        ("timeout_seconds", float("nan"), "above 0"),
        ("max_requests", -1, "negative"),
    ],
)
def test_invalid_endpoint_settings_are_refused(field: str, value: object, rule: str):
    with pytest.raises(ValueError, match=f"writer.endpoint.{field}.*{rule}") as refused:
        EndpointConfig(**{field: value})
    assert "secret" not in str(refused.value)
