"""A real HTTP server on this machine with prescribed answers, good ones and bad ones of all known
kinds."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


class Server:
    """A server that gives the answers of its list in turn, then the last one again and again, and
    keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked, self.headers, self.times = list(answers), [], [], []
        self.lock = threading.Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served.lock:
                    served.asked.append((self.path, content))
                    served.headers.append(dict(self.headers))
                    served.times.append(time.monotonic())
                    answer = served.answers.pop(0) if len(served.answers) > 1 else served.answers[0]
                answer(self, content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    server = Server(*answers)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def says(text: str, tokens: int = 7) -> Answer:
    answer = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"total_tokens": tokens}}
    return lambda handler, content: send(handler, 200, json.dumps(answer).encode())


def echo(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
    time.sleep(0.02 * (content["messages"][0]["content"] == "0"))  # the first request is answered last
    says(f"about {content['messages'][0]['content']}")(handler, content)


def status(code: int, body: bytes = b"no", **headers: str) -> Answer:
    return lambda handler, content: send(handler, code, body, **headers)


def raw(body: bytes) -> Answer:
    return status(200, body)


def sleeps(seconds: float) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return answer


def drips(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
    """Send one byte at a time, always within a timeout that starts again with each byte."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(40):
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        pass


def hangs_up(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
    handler.close_connection = True


def breaks_off(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.close_connection = True
