"""EC2's instance metadata service at 169.254.169.254, version 2 alone.

One server answers all machines and knows them by their address, as EC2's does. Without a token
from a PUT it says 401; its answers have the hop limit of the machine's launch template, so
nothing behind the machine gets one.
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

ADDRESS = "169.254.169.254"
TTL_HEADER, TOKEN_HEADER = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"


@dataclass
class Identity:
    """Facts about one machine."""

    instance_id: str
    address: str
    zone: str
    role: str
    hop_limit: int
    tags: Mapping[str, str] | None  # None where the launch template doesn't show them
    action: str | None = None  # spot/instance-action, once the machine is about to be taken
    tokens: dict[str, float] = field(default_factory=dict)  # -> until when

    def answer(self, path: str) -> str | None:
        """The answer to a path; None for 404."""
        known = {
            "instance-id": self.instance_id,
            "local-ipv4": self.address,
            "placement/availability-zone": self.zone,
            "placement/region": self.zone[:-1],
            "iam/security-credentials/": self.role,
            f"iam/security-credentials/{self.role}": self._credentials(),
            **{f"tags/instance/{key}": value for key, value in (self.tags or {}).items()},
            **({"spot/instance-action": self.action} if self.action else {}),
        }
        return known.get(path)

    def _credentials(self) -> str:
        made = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": f"ASIA{self.role}",
            "SecretAccessKey": "of-the-role",
        }
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6 * 3600))
        return json.dumps({**made, "Token": "of-the-session", "Expiration": until})


class MetadataServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, who: Callable[[str], Identity | None], *, address: str = ADDRESS, port: int = 80) -> None:
        super().__init__((address, port), _Handler)
        self.who = who
        self.refused = 0  # there is no token

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        identity = self.server.who(self.client_address[0])
        seconds = self.headers.get(TTL_HEADER, "")
        if identity is None or self.path != "/latest/api/token":
            return self._send(404)
        if "X-Forwarded-For" in self.headers:
            return self._send(403)
        if not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            return self._send(400)
        token = secrets.token_urlsafe(32)
        identity.tokens[token] = time.monotonic() + int(seconds)
        self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, identity.hop_limit)
        self._send(200, token, **{TTL_HEADER: seconds})

    def do_GET(self) -> None:
        identity = self.server.who(self.client_address[0])
        if identity is None:
            return self._send(404)
        if identity.tokens.get(self.headers.get(TOKEN_HEADER, ""), 0) < time.monotonic():
            self.server.refused += 1
            return self._send(401)
        found = identity.answer(self.path.removeprefix("/latest/meta-data/"))
        return self._send(404) if found is None else self._send(200, found)

    def _send(self, status: int, body: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "text/plain", "Content-Length": str(len(body.encode()))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass
