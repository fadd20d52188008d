"""Mutants of documents of a given kind, changed in one to three places, by structure or byte by
byte."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "0",
    "x",
    "..",
    "../../outside",
    "/absolute",
    "a\x00b",
    "\ud800",
    "\u202eabc",
    "é" * 300,
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    [1, "a", None],
    {"a": {"b": []}},
    {"": ""},
]
"""Wrong values for a field."""

LITERALS = [
    b"1e999",
    b"-1e999",
    b"NaN",
    b"Infinity",
    b"9" * 5000,
    b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b'"\\ud800"',
    b'"\\u0000"',
    b"",
    b"nul",
]
"""JSON that no serializer would write or accept."""


def changed_json(rng: random.Random, value: Any) -> bytes:
    """The document with one to three of its parts replaced, removed, renamed or repeated."""
    value = copy.deepcopy(value)
    literal = None
    for _ in range(rng.randint(1, 3)):
        parts = list(_parts(value))
        if not parts:
            break
        holder, key = rng.choice(parts)
        done = rng.randrange(6)
        if done == 0:
            holder.pop(key)
        elif done == 1 and isinstance(holder, dict):
            holder[rng.choice([f"{key}x", "", "__class__", key.upper()])] = holder.pop(key)
        elif done == 2 and isinstance(holder, list):
            holder.insert(rng.randint(0, len(holder)), copy.deepcopy(holder[key]))
        elif done == 3:
            literal = rng.choice(LITERALS)
            holder[key] = "@literal@"
        elif done == 4:
            holder[key] = copy.deepcopy(rng.choice(parts)[0])
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    try:
        written = json.dumps(value).encode()
    except (ValueError, RecursionError):  # the document now contains itself
        return rng.choice(LITERALS)
    return written if literal is None else written.replace(b'"@literal@"', literal)


def _parts(value: Any) -> Any:
    """All places in a document: the container and the key or index in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _parts(value[key])


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(_BYTES)(rng, content)


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8) if content else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    added = rng.choice([b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"{", b"]", b'"', bytes(64), *LITERALS])
    return content[:place] + added + content[place:]


def _long_number_at_start(rng: random.Random, content: bytes) -> bytes:
    """The length that a safetensors header announces."""
    announced = rng.choice(
        [0, 1, 7, 2**31, 2**53, 2**63, 2**64 - 1, len(content), len(content) - 8, rng.randrange(10**6)]
    )
    return max(announced, 0).to_bytes(8, "little") + content[8:]


def _mark(rng: random.Random, content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _noise(rng: random.Random, content: bytes) -> bytes:
    return rng.randbytes(rng.randrange(200))


_BYTES: list[Callable[[random.Random, bytes], bytes]] = [
    _flip,
    _flip,
    _cut,
    _insert,
    _long_number_at_start,
    _mark,
    _noise,
]


def changed(rng: random.Random, value: Any) -> bytes:
    """A mutant of a document, by its structure or by its bytes."""
    written = json.dumps(value).encode()
    return changed_bytes(rng, written) if rng.random() < 0.3 else changed_json(rng, value)


def safetensors(header: Any, body: bytes) -> bytes:
    described = header if isinstance(header, bytes) else json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    return len(described).to_bytes(8, "little") + described + body
