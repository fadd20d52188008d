"""HTTP requests from this machine: `python -m tests.infra.fake_ec2.ask` reads [[method, url,
headers], ...] and prints the statuses. 0 for no connection, -1 for an answer that isn't HTTP/1.

0 for no connection, -1 for an answer that isn't HTTP/1.
"""

import http.client
import json
import sys
from urllib.parse import urlsplit


def status_of(method: str, url: str, headers: dict[str, str]) -> int:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
    try:
        connection.connect()
    except OSError:
        return 0
    try:
        connection.request(method, where.path + (f"?{where.query}" if where.query else ""), headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return -1
    finally:
        connection.close()


if __name__ == "__main__":
    print(json.dumps([status_of(*asked) for asked in json.load(sys.stdin)]))
