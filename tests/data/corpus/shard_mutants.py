"""Mutated shards and lines, generated from seeds, to test the reader: no crash, no hang, bounded
memory, every line accounted for.

    python -m tests.data.corpus.shard_mutants reader    SEED FIRST LAST
    python -m tests.data.corpus.shard_mutants reference SEED FIRST LAST

The first prints the results of memlm's reader, one JSON line per mutant, the second those of the
plain reader in shard_reference.py.

The readers run in two processes, so that their memory is measured separately and a crash is seen;
`compare` runs both.
"""

import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from memlm.data import compression
from memlm.data.corpus import records, shards
from memlm.data.corpus.accounting import Accounting
from memlm.data.corpus.shards import ShardError, read_documents
from tests.data.corpus import shard_reference

ROOT = Path(__file__).parents[3]
HANG_SECONDS = 60  # computing time for one input
STALL_SECONDS = 900  # waiting time without a result, on a busy machine
GROWTH_BYTES = 256 * 2**20
# Lowered, so that most over-long lines and bombs are small; every REAL_EVERYth input tests the
# actual limits with an actual bomb.
CAPS = {"MAX_LINE_BYTES": 20_000, "MAX_BRACKETS": 100, "MAX_RATIO_FROM_BYTES": 200_000, "MAX_RATIO": 128}
HOMES = {
    "MAX_LINE_BYTES": shards,
    "MAX_BRACKETS": records,
    "MAX_RATIO_FROM_BYTES": compression,
    "MAX_RATIO": compression,
}
REAL_CAPS = {name: getattr(home, name) for name, home in HOMES.items()}
REAL_EVERY = 1000
WORDS = [
    "memory",
    "layer",
    "Straße",
    "東京",
    "🙂",
    '"quoted"',
    "back\\slash",
    "{brace",
    "[1, 2]",
    "tab\there",
    "\u2028",
    "\u00a0",
]


@dataclass(frozen=True)
class Mutant:
    kind: str
    suffix: str
    content: bytes
    caps: dict[str, int]


def mutant(seed: int, number: int) -> Mutant:
    """The mutant of this seed and number, always the same."""
    rng = random.Random(f"{seed} {number}")
    if number % REAL_EVERY == REAL_EVERY - 1:
        return Mutant("real bomb", ".jsonl.zst", real_bomb(rng), REAL_CAPS)
    lines = [line_of(rng) for _ in range(rng.randrange(0, 12))]
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        if lines:
            place = rng.randrange(len(lines))
            lines[place] = rng.choice(LINE_MUTATIONS)(rng, lines[place])
    ends = [rng.choices([b"\n", b"\r\n", b"\n\n", b" \n"], [20, 3, 1, 1])[0] for _ in lines]
    plain = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    if rng.random() < 0.2:
        plain = plain.rstrip(b"\n")
    if rng.random() < 0.1:
        plain = b"\xef\xbb\xbf" + plain
    if rng.random() < 0.3:
        plain = damaged(rng, plain)
    if rng.random() < 0.3:
        return Mutant("plain", ".jsonl", plain, CAPS)
    kind, packed = compressed(rng, plain)
    if rng.random() < 0.5:
        return Mutant(f"{kind}, damaged", ".jsonl.zst", damaged(rng, packed), CAPS)
    return Mutant(kind, ".jsonl.zst", packed, CAPS)


# Lines.


def line_of(rng: random.Random) -> bytes:
    """A record like DCLM's."""
    record = {
        "text": " ".join(rng.choices(WORDS, k=rng.randrange(1, 30))),
        "url": f"http://example.org/{rng.randrange(1000)}",
        "metadata": {"WARC-Type": "response", "WARC-Truncated": None, "Content-Length": str(rng.randrange(9999))},
        "language_id_whole_page_fasttext": {"en": rng.random()},
        "previous_word_count": rng.randrange(5000),
    }
    return json.dumps(record, ensure_ascii=rng.random() < 0.5).encode()


def value_of(rng: random.Random, depth: int = 0) -> bytes:
    """Any JSON value, and some invalid ones."""
    if depth < 4 and rng.random() < 0.3:
        inner = [value_of(rng, depth + 1) for _ in range(rng.randrange(4))]
        if rng.random() < 0.5:
            return b"[" + b",".join(inner) + b"]"
        return b"{" + b",".join(b'"k%d":%s' % (rng.randrange(6), one) for one in inner) + b"}"
    return rng.choice(
        [
            b"null",
            b"true",
            b"0",
            b"-1.5e9",
            b"1e999",
            b"NaN",
            b"Infinity",
            b"-Infinity",
            b'""',
            b'" \\t\\u00a0"',
            b"9" * 5000,
            b'"\\ud800"',
            b'"\\ud83d\\ude42"',
            b'"\\ude42\\ud83d"',
            b'"\\u0000"',
            b'"a\\u0000b"',
            b'"\\x"',
            b'"\x01"',
            b"01",
            b"+1",
            b"nan",
        ]
    )


def other_value(rng: random.Random, line: bytes) -> bytes:
    """The line with another text, or another value of some field."""
    key = rng.choice([b'"text"', b'"url"', b'"previous_word_count"'])
    return b"{%s: %s, %s" % (key, value_of(rng), line[1:]) if rng.random() < 0.3 else b"{%s: %s}" % (key, value_of(rng))


def deep(rng: random.Random, line: bytes) -> bytes:
    number = rng.choice([1, 60, 62, 63, 64, 65, 66, 900, 1000, 5000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inside = opening * number + b"1" + closing * rng.choice([number, number, number - 1, 0])
    return rng.choice(
        [inside, b'{"deep":' + inside + b', "text": "x"}', b'{"text":' + json.dumps(inside.decode()).encode() + b"}"]
    )


def long(rng: random.Random, line: bytes) -> bytes:
    """A line whose length is close to the limit."""
    rest = CAPS["MAX_LINE_BYTES"] - len(b'{"text": ""}') + rng.randrange(-4, 4)
    return b'{"text": "' + b"x" * rng.choice([rest, rest, rest * 2]) + b'"}'


def bytes_of_line(rng: random.Random, line: bytes) -> bytes:
    return damaged(rng, line)


def replaced(rng: random.Random, line: bytes) -> bytes:
    new = [
        b"",
        b"   ",
        b"\xef\xbb\xbf" + line,
        line + b"x",
        b"x" + line,
        line[:-1],
        b"[%s]" % line,
        line + line,
        b"{}",
        b"[]",
        b'"text"',
        b"7",
    ]
    return rng.choice(
        [
            *new,
            b"\x00",
            b"\xff\xfe",
            b"null",
            line.replace(b'"text"', b'"body"'),
            line.replace(b", ", b",,", 1),
            b"\x0b\x0c",
        ]
    )


LINE_MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    other_value,
    deep,
    long,
    bytes_of_line,
    replaced,
    other_value,
]


# Bytes.


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Content with bits flipped, or parts cut off, removed, inserted, swapped or repeated."""
    if not content:
        return bytes(rng.choices(range(256), k=rng.randrange(8)))
    mutated, place = bytearray(content), rng.randrange(len(content))
    size = rng.choice([1, 1, 2, 4, 16, 100])
    how = rng.randrange(7)
    if how == 0:
        for _ in range(size):
            mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
    elif how == 1:
        del mutated[place:]
    elif how == 2:
        del mutated[place : place + size]
    elif how == 3:
        mutated[place:place] = bytes(rng.choices(range(256), k=size))
    elif how == 4:
        other = rng.randrange(len(mutated))
        mutated[place], mutated[other] = mutated[other], mutated[place]
    elif how == 5:
        mutated[place:place] = mutated[place : place + 50]
    else:
        mutated[place : place + size] = bytes(len(mutated[place : place + size]))
    return bytes(mutated)


# Frames.


def compressed(rng: random.Random, plain: bytes) -> tuple[str, bytes]:
    how = rng.randrange(7)
    if how == 0:
        cut = sorted(rng.randrange(len(plain) + 1) for _ in range(3))
        pieces = [plain[start:end] for start, end in zip([0, *cut], [*cut, len(plain)], strict=True)]
        return "several frames", b"".join(frame(rng, piece) for piece in pieces)
    if how == 1:
        kinds = [skippable(rng), frame(rng, plain), skippable(rng), frame(rng, b"")]
        return "skippable frames", b"".join(rng.sample(kinds, k=rng.randrange(1, 5)))
    if how == 2:
        return "bomb", frame(rng, plain) + frame(
            rng, rng.choice([b" ", b"x", b'{"text": "a"}\n']) * rng.choice([15_000, 30_000, 400_000])
        )
    if how == 3:
        return "garbage after", frame(rng, plain) + bytes(rng.choices(range(256), k=rng.randrange(1, 9)))
    if how == 4:
        window = rng.randrange(256)
        return "window", b"\x28\xb5\x2f\xfd\x00" + bytes([window]) + rng.choice(
            [b"\x01\x00\x00", b"\x0b\x00\x00a", b"\x00\x00\x00"]
        )
    return "frame", frame(rng, plain)


def frame(rng: random.Random, plain: bytes) -> bytes:
    level, checksum, size = rng.choice([1, 3, 19]), rng.random() < 0.5, rng.random() < 0.5
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=size)
    return compressor.compress(plain)


def skippable(rng: random.Random) -> bytes:
    size = rng.randrange(40)
    claimed = size if rng.random() < 0.8 else rng.randrange(2**32)
    return (0x184D2A50 + rng.randrange(16)).to_bytes(4, "little") + claimed.to_bytes(4, "little") + bytes(size)


def real_bomb(rng: random.Random) -> bytes:
    """1 GiB compressed to 30 to 100 KB: one line, lines beyond the limit, or lines of characters
    that take four bytes each."""
    unit = rng.choice([b" ", b"x" * (20 * 2**20) + b"\n", '{"text": "🙂'.encode() + b"x" * (15 * 2**20) + b'"}\n'])
    compressor, whole = zstandard.ZstdCompressor().compressobj(), unit * (1 if len(unit) > 1 else 2**20)
    pieces = [compressor.compress(whole) for _ in range(2**30 // len(whole))]
    return b"".join(pieces) + compressor.flush()


# The readers' results.


@dataclass
class Compared:
    tries: int = 0
    differences: list[str] = field(default_factory=list)
    growth_bytes: int = 0
    failed: str = ""
    """How a reader ended that did not finish."""
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


def compare(seed: int, first: int, last: int) -> Compared:
    """Run both readers on the same mutants."""
    ours, theirs = _run("reader", seed, first, last), _run("reference", seed, first, last)
    found = Compared(failed=ours[1] or theirs[1])
    for mine, other in zip(ours[0], theirs[0], strict=False):
        if "growth_bytes" in mine:
            found.growth_bytes = mine["growth_bytes"]
            continue
        found.tries += 1
        found.kinds[mine["kind"]] += 1
        found.outcomes["read" if mine["read"] else "refused"] += 1
        if (mine["read"], mine["digest"]) != (other["read"], other["digest"]) or mine.get("fault"):
            found.differences.append(f"seed {seed} number {mine['number']}: {mine} {other}")
    if not found.failed and found.growth_bytes > GROWTH_BYTES:
        found.failed = f"the reader grew by {found.growth_bytes} bytes"
    return found


def _run(which: str, seed: int, first: int, last: int) -> tuple[list[dict[str, Any]], str]:
    command = [sys.executable, "-m", "tests.data.corpus.shard_mutants", which, str(seed), str(first), str(last)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    failed = f"{which} ended with {done.returncode}: {done.stderr[-2000:]}" if done.returncode else ""
    return [json.loads(line) for line in done.stdout.splitlines()], failed


def outcomes(which: str, seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    look = by_reader if which == "reader" else by_reference
    began = memory = 0
    with tempfile.TemporaryDirectory(prefix="memlm-") as folder:
        for number in numbers:
            made = mutant(seed, number)
            path = Path(folder) / f"shard{made.suffix}"
            path.write_bytes(made.content)
            for name, value in made.caps.items():
                setattr(HOMES[name], name, value)
            signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
            signal.alarm(STALL_SECONDS)
            seen = look(path, made)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            yield {"number": number, "kind": made.kind, **seen}
            memory = _peak()
            began = began or memory
            del made
    yield {"growth_bytes": memory - began}


def by_reader(path: Path, made: Mutant) -> dict[str, Any]:
    accounting, documents = Accounting(), _Digest()
    try:
        for document in read_documents(str(path), accounting=accounting):
            documents.add(document.line, document.text)
        read = True
    except ShardError:
        read = False
    accounting.check(str(path))
    assert accounting.kept == documents.number
    return _seen(read, documents, accounting.dropped, accounting.malformed)


def by_reference(path: Path, made: Mutant) -> dict[str, Any]:
    documents = _Digest()
    try:
        found = shard_reference.read(made.content, made.suffix)
    except shard_reference.Unreadable:
        return _seen(False, documents, Counter(), Counter())
    assert found.lines == len(found.documents) + found.dropped.total() + found.malformed.total()
    for line, text in found.documents:
        documents.add(line, text)
    return _seen(True, documents, found.dropped, found.malformed)


class _Digest:
    """Digest of documents, without keeping them."""

    def __init__(self) -> None:
        self.number, self.hash = 0, hashlib.sha256()

    def add(self, line: int, text: str) -> None:
        self.number += 1
        self.hash.update(json.dumps([line, text]).encode())


def _seen(read: bool, documents: _Digest, dropped: Counter[str], malformed: Counter[str]) -> dict[str, Any]:
    """The result for one file. Of an unreadable file only that is recorded, since readers may get
    differently far."""
    if not read:
        return {"read": False, "digest": ""}
    documents.hash.update(json.dumps([sorted(dropped.items()), sorted(malformed.items())]).encode())
    return {"read": True, "digest": documents.hash.hexdigest()[:16]}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    which, seed, first, last = sys.argv[1], *map(int, sys.argv[2:])
    for seen in outcomes(which, seed, range(first, last)):
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
