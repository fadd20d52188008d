"""An S3 server that fails: moto behind a proxy that injects seeded faults of real networks and
stores.

    500, 503     an error instead of an answer; the request did not happen
    reset        the connection is reset; the request did not happen
    lost         the request happened, and the connection is reset: a lost acknowledgement
    cut          the answer's body ends half-way
    slow         half of the body comes, then nothing, or a byte now and then
    flip_down    one bit of the answer's body is another
    flip_up      one bit of the request's body is another

In two points the proxy makes moto as S3 is. moto checks the condition of a write and writes in
two steps, S3 in one: one conditional write passes at a time, so the race is among clients. And
where moto breaks at an unknown id of an upload or a garbled list of parts (500), the answer
becomes S3's.
"""

import base64
import functools
import hashlib
import http.client
import logging
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from xml.sax.saxutils import escape

Sizes = Literal["declared", "chunked", "undeclared"]
FAULTS = ("500", "503", "reset", "lost", "cut", "slow", "flip_down", "flip_up")
_CODES = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict"}
_NOT_PASSED_ON = ("transfer-encoding", "connection", "content-length", "server", "date")


class FaultyProxy(ThreadingHTTPServer):
    """A proxy that passes requests on to the S3 server at `port`. Faults hit the `planned` requests
    first, then `share` of all requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, *, seed: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.target = port
        self.stall_seconds = 3.0
        self.seconds_ahead = 0.0  # of the store's clock, as its answers' dates say
        self.flips_after = b""  # flip_down hits the first byte after this, where an answer has it
        self.drops: tuple[str, ...] = ()  # headers that the store shall not see
        self.refuses: tuple[str, ...] = ()  # what the names of headers begin with that the store refuses
        self.checks_sums = False  # Content-MD5, as S3 does and moto does not
        self.hides: tuple[str, ...] = ()  # headers that its clients shall not see
        self.sizes: Sizes = (
            "declared"  # of bodies: in Content-Length, by chunks alone, or by the connection's end alone
        )
        self.atomic, self._lock = threading.Lock(), threading.Lock()
        self.plan(seed=seed)

    @property
    def endpoint(self) -> str:
        return "http://{}:{}".format(*self.server_address)

    def plan(
        self,
        *,
        seed: int = 0,
        share: float = 0,
        faults: tuple[str, ...] = FAULTS,
        planned: list[str] | None = None,
        only: str = "",
        answer: tuple[int, str, dict[str, str]] | None = None,
        message: str = "injected",
    ) -> None:
        """Plan faults from now on: first the `planned` ones, then random ones of these kinds at
        this share, on requests whose "METHOD path" contains `only`. With `answer`, every such
        request gets this status, S3 code and headers."""
        with self._lock:
            self._random, self.share, self.faults = random.Random(seed), share, faults
            self.planned, self.only, self.answer, self.message = list(planned or []), only, answer, message
            self.requests, self.injected = 0, Counter[str]()

    def draw(self, line: str, has_body: bool) -> tuple[str, float]:
        """A fault, or an empty text, and a number in [0, 1) that chooses its place."""
        with self._lock:
            self.requests += 1
            aim = self._random.random()
            if self.only not in line:
                return "", aim
            if self.planned:
                return self.planned.pop(0), aim
            possible = [fault for fault in self.faults if has_body or fault != "flip_up"]
            return (self._random.choice(possible) if self._random.random() < self.share else ""), aim

    def note(self, fault: str) -> None:
        with self._lock:
            self.injected[fault] += 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect, which is part of the plan."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue", for which clients else wait a second
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        sent = self._sent()
        line = f"{self.command} {self.path}"
        refused = [name for name in self.headers if name.lower().startswith(self.server.refuses)]
        if refused:
            message = f"Unsupported header '{refused[0]}' received for this API call."
            return self._answer(400, {}, _error("InvalidArgument", message))
        fault, aim = self.server.draw(line, bool(sent))
        if self.server.answer is not None and self.server.only in line:
            status, code, headers = self.server.answer
            return self._answer(status, headers, _error(code, self.server.message))
        if fault in _CODES:
            self.server.note(fault)
            return self._answer(int(fault), {}, _error(_CODES[fault]))
        if fault == "reset":
            self.server.note(fault)
            return self._reset()
        if fault.startswith("flip_up") and sent:  # another fault may follow
            self.server.note("flip_up")
            sent, fault = _flip(sent, aim), fault.removeprefix("flip_up").removeprefix("+")
        declared, found = self.headers.get("Content-MD5"), hashlib.md5(sent, usedforsecurity=False).digest()
        if self.server.checks_sums and declared is not None and base64.b64decode(declared) != found:
            self.server.note("BadDigest")
            return self._answer(400, {}, _error("BadDigest"))
        status, headers, body = self._pass_on(sent)
        self._respond(fault, aim, status, headers, body)

    def _sent(self) -> bytes:
        """The request's body, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _respond(self, fault: str, aim: float, status: int, headers: dict[str, str], body: bytes) -> None:
        if fault == "lost" or (fault == "cut" and not body):
            self.server.note("lost")
            return self._reset()
        if fault == "flip_down" and body:
            self.server.note(fault)
            place = body.find(self.server.flips_after) if self.server.flips_after else -1
            body = _flip(body, aim if place < 0 else (place + len(self.server.flips_after)) / len(body))
        if fault in ("cut", "slow"):
            self.server.note(fault)
            self._answer(status, headers, body, sends=len(body) // 2)
            if fault == "slow":
                is_object = self.command == "GET" and "?" not in self.path and status < 300
                self._stall(body[len(body) // 2 :], drips=is_object and aim < 0.5)
            self.close_connection = True
            return
        self._answer(status, headers, body)

    def _pass_on(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("expect", "connection", "transfer-encoding", *map(str.lower, self.server.drops))
        }
        conditional = self.command in ("PUT", "POST") and ("If-Match" in headers or "If-None-Match" in headers)
        with self.server.atomic if conditional else threading.Lock():
            upstream = http.client.HTTPConnection("127.0.0.1", self.server.target)
            try:
                upstream.request(self.command, self.path, sent, headers)
                response = upstream.getresponse()
                body = response.read()
            finally:
                upstream.close()
        if response.status == 500 and "uploadId=" in self.path:
            return (400, {}, _error("MalformedXML")) if self.command == "POST" else (404, {}, _error("NoSuchUpload"))
        kept = {name: value for name, value in response.getheaders() if name.lower() not in _NOT_PASSED_ON}
        kept["Date"] = formatdate(time.time() + self.server.seconds_ahead, usegmt=True)
        kept = {name: value for name, value in kept.items() if name not in self.server.hides}
        if self.command == "HEAD":
            kept["Content-Length"] = response.getheader("Content-Length") or "0"
        return response.status, kept, body

    def _answer(self, status: int, headers: dict[str, str], body: bytes, sends: int | None = None) -> None:
        size, kind = headers.get("Content-Length", str(len(body))), self.server.sizes
        ends = {
            "declared": ("Content-Length", size),
            "chunked": ("Transfer-Encoding", "chunked"),
            "undeclared": ("Connection", "close"),
        }
        self.send_response_only(status)
        for name, value in dict([*headers.items(), ends[kind]]).items():
            if name != "Content-Length" or kind == "declared":
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "chunked":
            part = body[:sends]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")
            self.wfile.write(b"0\r\n\r\n" if sends is None else b"")
        else:
            self.wfile.write(body[:sends])
        self.wfile.flush()

    def _stall(self, rest: bytes, drips: bool) -> None:
        until, place = time.monotonic() + self.server.stall_seconds, 0
        while time.monotonic() < until:
            time.sleep(0.05)
            if drips and place < len(rest) - 1:
                self.wfile.write(rest[place : place + 1])
                place += 1

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def faulty_s3(seed: int = 0, host: str = "127.0.0.1") -> Iterator[FaultyProxy]:
    """moto, and a proxy in front of it at `host`, in threads of this process. `client_environment`
    gives the variables to reach them."""
    import moto.s3.models  # imported here because the processes of a race need no moto
    from moto.server import ThreadedMotoServer

    moto.s3.models.S3_UPLOAD_PART_MIN_SIZE = 1  # parts may be as small as tests need
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = FaultyProxy(moto.get_host_and_port()[1], seed=seed, host=host)
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        moto.stop()


def client_environment(proxy: FaultyProxy) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": proxy.endpoint,
    }


def make_bucket(proxy: FaultyProxy) -> str:
    """A new bucket, made without the proxy."""
    name = f"bucket-{time.monotonic_ns()}"
    plain_client(proxy).create_bucket(Bucket=name)
    return f"s3://{name}"


def plain_client(proxy: FaultyProxy) -> Any:
    """A client that goes to moto directly, without faults."""
    return _client_of(f"http://127.0.0.1:{proxy.target}")


@functools.cache
def _client_of(endpoint: str) -> Any:
    import boto3

    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def _flip(body: bytes, aim: float) -> bytes:
    place = int(aim * len(body) * 8)
    return body[: place // 8] + bytes([body[place // 8] ^ 1 << place % 8]) + body[place // 8 + 1 :]


def _error(code: str, message: str = "injected") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()
