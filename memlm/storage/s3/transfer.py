"""Move large files to and from S3 in parallel parts, and check that each part arrived intact.

Each part is retried by itself. Uploads: a part's ETag is its MD5 and the object's is the MD5 of
those, so equality proves that the stored bytes are right; where a store's ETags are not MD5s, the
object is read back. Downloads: all parts are of one version (If-Match); if the whole file does not
have the expected sha256, each part is read until two reads of it agree, and a remaining error is
then on the store itself.
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
    CorruptTransfer,
    PreconditionFailed,
    UploadGone,
    aws,
    code_of,
    head,
    in_parallel,
    is_md5,
    is_sent_over_tls,
    md5_base64,
    read_body,
    request,
)

PART_BYTES = 16 << 20
"""Size of a part: at least 5 MiB (S3's limit). Times `s3.WORKERS`, it is the memory that a
transfer uses."""
MAX_PARTS = 10_000
MAX_RESENDS = 3
"""How often a part is sent again because its ETag is not its MD5. After that memlm assumes that
this store's ETags are not MD5s."""


def upload(files: Mapping[str, Path]) -> None:
    """Upload files, given by uri. Afterwards each object is equal to its file; raises StorageError
    if that cannot be achieved."""
    left = dict(files)
    for _ in range(retries.current_policy().attempts):
        left = _send(left)
        if not left:
            return
    uri = next(iter(left))
    raise StorageError(
        "uri", uri, "the stored bytes keep differing from the bytes sent", "Check the network and store."
    )


def download(uri: str, path: Path, sha256: str | None = None) -> bool:
    """Download one object into a file. Returns whether it has this sha256, or else the one that
    its writer recorded. If neither is known, the ETag, TLS or two equal reads must suffice."""
    return download_all([Download(uri, path, sha256)])[0]


@dataclass
class Download:
    """An object and the file it goes to. Raises FileNotFoundError if the object does not exist."""

    uri: str
    path: Path
    sha256: str | None = None
    size: int = 0
    etag: str = ""
    digests: dict[int, bytes] = field(default_factory=dict)  # start of a part -> MD5 of the bytes written there

    def begin(self) -> None:
        """Look up the object's size and version, and make an empty file of that size."""
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
            if len(seen) > retries.current_policy().attempts:
                raise StorageError(
                    "uri", self.uri, "every read of it gives different bytes", "Check the network and the store."
                )
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(body)
        self.digests[start] = digest

    def is_as_written(self) -> bool:
        if self.sha256 is not None:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        parts = [self.digests[start] for start in sorted(self.digests)]
        return self.etag.strip('"') == _etag(parts) or is_sent_over_tls(self.uri)


def download_all(downloads: Sequence[Download]) -> list[bool]:
    """Whether each is as it was written; two reads of every part of the others agreed."""
    for _ in range(retries.current_policy().attempts):
        try:
            in_parallel([each.begin for each in downloads])
            _fetch(downloads)
            doubtful = [each for each in downloads if not each.is_as_written()]
            _fetch(doubtful, until_two_agree=True)
            return [each not in doubtful or each.sha256 is None or each.is_as_written() for each in downloads]
        except PreconditionFailed:  # one of them was overwritten meanwhile
            continue
    uris = ", ".join(each.uri for each in downloads)
    raise StorageError("uri", uris, "keeps being overwritten while it is read", "Find out who writes there.")


def part_bytes(size: int) -> int:
    return max(PART_BYTES, -(-size // MAX_PARTS))


def _etag(parts: Sequence[bytes]) -> str:
    """ETag of an object made of parts with these MD5s."""
    if len(parts) == 1:
        return parts[0].hex()
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _starts(size: int) -> range:
    return range(0, max(size, 1), part_bytes(size))


def _fetch(downloads: Sequence[Download], *, until_two_agree: bool = False) -> None:
    tasks = [(each, start) for each in downloads for start in _starts(each.size)]
    in_parallel([functools.partial(each.fetch, start, until_two_agree=until_two_agree) for each, start in tasks])


def _part(uri: str, etag: str, start: int, size: int, whole: int) -> bytes:
    wanted = {"Range": f"bytes={start}-{start + size - 1}"} if size < whole else {}  # an empty object has no range

    def once(client: Any, bucket: str, key: str) -> bytes:
        response = client.get_object(Bucket=bucket, Key=key, IfMatch=etag, **wanted)
        if wanted and "ContentRange" not in response:  # a store or proxy that ignores ranges sends everything
            return read_body(response, whole)[start : start + size]
        return read_body(response, size)

    return request(uri, once)


@dataclass
class _Upload:
    """A file being uploaded. Small files are sent whole, large ones in parts followed by the list
    of parts."""

    uri: str
    path: Path
    size: int
    id: str = ""
    is_gone: bool = False  # the store knows no such upload: its id was corrupted, or somebody aborted it
    etags: dict[int, str] = field(default_factory=dict)  # start of a part -> ETag given by the store
    digests: dict[int, bytes] = field(default_factory=dict)  # start of a part -> its MD5

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
            sent = {"Bucket": bucket, "Key": key, "Body": body, "ContentMD5": md5_base64(body)}
            if self.id:
                answer = client.upload_part(**sent, UploadId=self.id, PartNumber=self._number(start))
            else:
                answer = client.put_object(**sent)
            etag = str(answer["ETag"])
            by_md5 = answer.get("ServerSideEncryption", "AES256") == "AES256"
            if by_md5 and not is_md5(etag, body) and len(strange) < MAX_RESENDS:
                strange.append(etag)
                raise CorruptTransfer(self.uri)
            return etag

        try:
            self.etags[start] = request(self.uri, once)
        except UploadGone:
            self.is_gone = True
        self.digests[start] = hashlib.md5(body, usedforsecurity=False).digest()

    def finish(self) -> bool:
        """Complete the upload. Returns whether the object is equal to the file."""
        if self.is_gone:
            return False
        try:
            stored = self._complete() if self.id else self.etags[0]
            proved = stored.strip('"') == _etag([self.digests[start] for start in _starts(self.size)])
            return proved or is_sent_over_tls(self.uri) or self._matches_when_read_back()
        except (FileNotFoundError, PreconditionFailed):  # somebody else deleted or overwrote it
            return False

    def abort(self) -> None:
        """Abort an unfinished upload, so that its parts stop costing money."""
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
                if code_of(error) != NO_UPLOAD:  # the code after an acknowledgement was lost
                    raise
            return str(client.head_object(**named)["ETag"])  # a header, while the answer above is a body

        return request(self.uri, once)

    def _matches_when_read_back(self) -> bool:
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
    """Send all files. Returns those that must be sent again."""
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
