"""How do large files go to S3 and come back, in parts side by side, and what tells that each
arrived as it left?

Each part is tried again by itself. Up: a part's ETag is its MD5 and the object's is the MD5 of
those, so equality proves that what was written is stored; where a store's ETags are no MD5s, the
object is read back. Down: parts of one version only (If-Match); if the whole has another sha256
than it should, each part is read until two reads of it agree, and what is wrong then was wrong
on the store.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlm.storage import retries
from memlm.storage.errors import StorageError
from memlm.storage.s3.client import (
    NO_UPLOAD,
    SENT,
    PreconditionFailed,
    Spoiled,
    UploadGone,
    aws,
    code_of,
    drain,
    head,
    in_parallel,
    is_md5,
    is_safe_on_the_way,
    request,
    sum_of,
)

PART_BYTES = 16 << 20
"""At least 5 MiB, at most 10,000 parts (S3's limits); times `s3.WORKERS` is what a transfer
holds in memory."""
MOST_PARTS = 10_000
SENT_AGAIN = 3
"""How often a part goes up again because its ETag is not its MD5. After that the store's ETags
are taken to be none."""


def upload(files: Mapping[str, Path]) -> None:
    """Files by uri. After it each object holds what its file does; StorageError if that can't be
    had."""
    left = dict(files)
    for _ in range(retries.patience().attempts):
        left = _send(left)
        if not left:
            return
    uri = next(iter(left))
    raise StorageError("uri", uri, "what is stored keeps differing from what was sent", "Check the network and store.")


def download(uri: str, path: Path, sha256: str | None = None) -> bool:
    """One object into a file, and whether it has this sha256, or the one it was sent with. Where
    neither is known, the ETag, TLS or two equal reads have to do."""
    return download_all([Download(uri, path, sha256)])[0]


@dataclass
class Download:
    """An object and the file it goes to. FileNotFoundError when it is not there."""

    uri: str
    path: Path
    sha256: str | None = None
    size: int = 0
    etag: str = ""
    digests: dict[int, bytes] = field(default_factory=dict)  # start of a part -> MD5 of what was written there

    def begin(self) -> None:
        """What is there, and of which version."""
        found = request(self.uri, head)
        self.size, self.etag, self.digests = int(found["ContentLength"]), found["ETag"], {}
        self.sha256 = self.sha256 or found.get("Metadata", {}).get(SENT)
        with self.path.open("wb") as file:
            file.truncate(self.size)

    def fetch(self, start: int, *, until_two_agree: bool = False) -> None:
        seen = set()
        while True:
            body = _part(self.uri, self.etag, start, min(part_bytes(self.size), self.size - start), self.size)
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            if not until_two_agree or digest in seen or digest == self.digests[start]:
                break
            seen.add(digest)
            if len(seen) > retries.patience().attempts:
                raise StorageError("uri", self.uri, "no two reads of it agree", "Check the network and the store.")
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(body)
        self.digests[start] = digest

    def is_as_written(self) -> bool:
        if self.sha256 is not None:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        parts = [self.digests[start] for start in sorted(self.digests)]
        return self.etag.strip('"') == _etag(parts) or is_safe_on_the_way(self.uri)


def download_all(downloads: Sequence[Download]) -> list[bool]:
    """Which of them are as they were written; of the others two reads of every part agreed."""
    for _ in range(retries.patience().attempts):
        try:
            in_parallel([each.begin for each in downloads])
            _fetch(downloads)
            doubtful = [each for each in downloads if not each.is_as_written()]
            _fetch(doubtful, until_two_agree=True)
            return [each not in doubtful or each.sha256 is None or each.is_as_written() for each in downloads]
        except PreconditionFailed:  # one was written over meanwhile
            continue
    uris = ", ".join(each.uri for each in downloads)
    raise StorageError("uri", uris, "keeps being written over while it is read", "Find out who writes there.")


def part_bytes(size: int) -> int:
    return max(PART_BYTES, -(-size // MOST_PARTS))


def _etag(parts: Sequence[bytes]) -> str:
    """Of an object made of parts with these MD5s."""
    if len(parts) == 1:
        return parts[0].hex()
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _starts(size: int) -> range:
    return range(0, max(size, 1), part_bytes(size))


def _fetch(downloads: Sequence[Download], *, until_two_agree: bool = False) -> None:
    tasks = [(each, start) for each in downloads for start in _starts(each.size)]
    in_parallel([functools.partial(each.fetch, start, until_two_agree=until_two_agree) for each, start in tasks])


def _part(uri: str, etag: str, start: int, size: int, whole: int) -> bytes:
    wanted = {"Range": f"bytes={start}-{start + size - 1}"} if size < whole else {}  # none has a range if it is empty

    def once(client: Any, bucket: str, key: str) -> bytes:
        response = client.get_object(Bucket=bucket, Key=key, IfMatch=etag, **wanted)
        if wanted and "ContentRange" not in response:  # a store or proxy that ignores ranges sends everything
            return drain(response, whole)[start : start + size]
        return drain(response, size)

    return request(uri, once)


@dataclass
class _Upload:
    """A file on its way. Small ones are sent whole; of large ones each part, and then the list
    of parts."""

    uri: str
    path: Path
    size: int
    id: str = ""
    is_gone: bool = False  # the store knows no such upload: its id changed on the way, or somebody aborted it
    etags: dict[int, str] = field(default_factory=dict)  # start of a part -> what the store says
    digests: dict[int, bytes] = field(default_factory=dict)  # and its MD5

    def begin(self) -> None:
        if self.size > part_bytes(self.size):
            answer = request(
                self.uri,
                lambda client, bucket, key: client.create_multipart_upload(Bucket=bucket, Key=key),
            )
            self.id = answer["UploadId"]

    def send(self, start: int) -> None:
        with self.path.open("rb") as file:
            file.seek(start)
            body = file.read(part_bytes(self.size))
        strange: list[str] = []

        def once(client: Any, bucket: str, key: str) -> str:
            sent = {"Bucket": bucket, "Key": key, "Body": body, "ContentMD5": sum_of(body)}
            if self.id:
                answer = client.upload_part(**sent, UploadId=self.id, PartNumber=self._number(start))
            else:
                answer = client.put_object(**sent)
            etag = str(answer["ETag"])
            by_md5 = answer.get("ServerSideEncryption", "AES256") == "AES256"
            if by_md5 and not is_md5(etag, body) and len(strange) < SENT_AGAIN:
                strange.append(etag)
                raise Spoiled(self.uri)
            return etag

        try:
            self.etags[start] = request(self.uri, once)
        except UploadGone:
            self.is_gone = True
        self.digests[start] = hashlib.md5(body, usedforsecurity=False).digest()

    def finish(self) -> bool:
        """Whether the object holds what the file does."""
        if self.is_gone:
            return False
        try:
            stored = self._complete() if self.id else self.etags[0]
            proved = stored.strip('"') == _etag([self.digests[start] for start in _starts(self.size)])
            return proved or is_safe_on_the_way(self.uri) or self._reads_back()
        except (FileNotFoundError, PreconditionFailed):  # somebody else deleted it or wrote over it
            return False

    def abort(self) -> None:
        """What could not be finished must not go on to cost."""
        if self.id:
            with suppress(StorageError, UploadGone):
                request(
                    self.uri,
                    lambda client, bucket, key: client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=self.id),
                )

    def _complete(self) -> str:
        parts = [{"PartNumber": self._number(start), "ETag": self.etags[start]} for start in _starts(self.size)]

        def once(client: Any, bucket: str, key: str) -> str:
            named = {"Bucket": bucket, "Key": key}
            try:
                client.complete_multipart_upload(**named, UploadId=self.id, MultipartUpload={"Parts": parts})
            except aws.ClientError as error:
                if code_of(error) != NO_UPLOAD:  # which it is after an acknowledgement that was lost
                    raise
            return str(client.head_object(**named)["ETag"])  # a header, where the answer above is a body

        return request(self.uri, once)

    def _reads_back(self) -> bool:
        for start in _starts(self.size):
            with self.path.open("rb") as file:
                file.seek(start)
                body = file.read(part_bytes(self.size))
            seen: set[bytes] = set()
            stored = request(self.uri, head)
            while (found := _part(self.uri, stored["ETag"], start, len(body), self.size)) != body:
                if found in seen or int(stored["ContentLength"]) != self.size:
                    return False
                seen.add(found)
        return True

    def _number(self, start: int) -> int:
        return start // part_bytes(self.size) + 1


def _send(files: Mapping[str, Path]) -> dict[str, Path]:
    """Send all; what has to be sent again comes back."""
    uploads = [_Upload(uri, path, path.stat().st_size) for uri, path in files.items()]
    finished: list[bool] = []
    try:
        in_parallel([each.begin for each in uploads])
        in_parallel([functools.partial(each.send, start) for each in uploads for start in _starts(each.size)])
        finished = in_parallel([each.finish for each in uploads])
    finally:
        if not finished:
            for each in uploads:
                each.abort()
    return {each.uri: each.path for each, whole in zip(uploads, finished, strict=True) if not whole}
