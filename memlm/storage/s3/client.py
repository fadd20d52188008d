"""Single objects on S3, read and written so that no fault on the way changes, loses or doubles one.

up    every body carries its MD5 (Content-MD5), which stores check: all of them know it, and some refuse S3's newer
      checksum headers. Without TLS, before a store that ignores it, the ETag tells: it is the
      MD5 of what was stored, or else the object is read back and compared.
down  a body is believed if its MD5 is the ETag, or if it came over TLS and in full, or if two reads agree. Listings,
      which carry no sum, are read until two agree where there is no TLS. Its size need not be
      told in advance.
once  a conditional write whose acknowledgement was lost meets itself when it is tried again: after "precondition
      failed" the object is read back, and if it holds our body, it is ours.
"""

import base64
import functools
import hashlib
import http.client
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import urllib3.exceptions

from memlm.credentials import AWS, redacted, tidy, without_secrets
from memlm.extras import needed_for
from memlm.storage import retries
from memlm.storage.errors import StorageError
from memlm.storage.local import Found

with needed_for("an s3:// address"):
    import boto3
    from botocore import exceptions as aws
    from botocore.config import Config
    from botocore.parsers import ResponseParserError

WORKERS = 8
"""Requests at once of one process."""

SENT = "sha256"
"""Metadata of every small object: the SHA-256 of what its writer sent."""
DAMAGED_AGAIN = 3
"""How often a damaged object is read again."""

T = TypeVar("T")
NO_UPLOAD = "NoSuchUpload"
NOT_IMPLEMENTED = 501
_LOST_ON_THE_WAY = (  # answers to a request that was garbled, throttled or met another of its kind
    *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"),
    *("MalformedXML", "RequestTimeout", "RequestTimeTooSkewed", "InvalidPart", "InvalidPartOrder", "OperationAborted"),
    *("ConditionalRequestConflict", "SlowDown", "Throttling", "ThrottlingException"),
)
_GARBLED = (ResponseParserError, ValueError, LookupError)  # what the SDK makes of an answer that it can't read
_NO_RIGHTS = ("AccessDenied", "AllAccessDisabled", "403", "Forbidden")
_EXPLAINED = {
    "NoSuchBucket": ("bucket {bucket} is not there", "Create it, or correct the name."),
    "ExpiredToken": ("the session's token has expired", "Get new credentials and start again: nothing done is lost."),
    "InvalidAccessKeyId": ("the store does not know these credentials", "Check the profile, or the environment."),
    "SignatureDoesNotMatch": ("the secret key is wrong", "Check the profile, or the environment."),
    "AuthorizationHeaderMalformed": ("bucket {bucket} is in another region{region}", "Set AWS_REGION to it."),
    "AccessDenied": ("these credentials have no right to do this", "Grant it, or use other credentials."),
    "NotImplemented": (
        "the store lacks a part of S3 that is needed here",
        "Use one whose conditional writes hold: AWS S3, or a current MinIO or Ceph.",
    ),
}
_SAME = {
    **dict.fromkeys(("ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), "ExpiredToken"),
    **dict.fromkeys(("PermanentRedirect", "301", "IllegalLocationConstraintException"), "AuthorizationHeaderMalformed"),
    **dict.fromkeys(("InvalidToken", "UnrecognizedClientException"), "InvalidAccessKeyId"),
    **dict.fromkeys(_NO_RIGHTS, "AccessDenied"),
}


class Spoiled(Exception):
    """What came is not what was asked for. Asking again may help."""


def read(uri: str, *, with_age: bool = False) -> Found | None:
    """What is there. A damaged object is given up on only after its writer had time to put it
    right."""
    seen: list[bytes] = []
    damaged: list[Found] = []

    def once(client: Any, bucket: str, key: str) -> Found:
        response = client.get_object(Bucket=bucket, Key=key)
        sent = response.get("Metadata", {}).get(SENT, "")
        age = _age(response) if with_age else 0
        found = Found(body=drain(response), version=response["ETag"], age_seconds=age, sha256=sent)
        safe = is_protected(client) and _says_where_it_ends(response)
        if not (is_md5(response["ETag"], found.body) or safe or found.body in seen):
            seen.append(found.body)
            raise Spoiled(uri)
        if found.is_damaged and len(damaged) < DAMAGED_AGAIN:
            damaged.append(found)
            raise Spoiled(uri)
        return found

    try:
        return request(uri, once)
    except FileNotFoundError:
        return None


def write(uri: str, body: bytes) -> None:
    def once(client: Any, bucket: str, key: str) -> None:
        stored = _put(client, bucket, key, body)
        if not (is_md5(stored, body) or is_protected(client)):
            found = read(uri)
            if found is not None and found.version == stored and found.body != body:
                raise Spoiled(uri)  # else it is ours, or another has written since

    request(uri, once)


def create(uri: str, body: bytes) -> bool:
    """Write where nothing is; whether `body` is there by this call, or by an equal one."""
    return _write_if(uri, body, {"IfNoneMatch": "*"})


def replace(uri: str, body: bytes, version: str) -> bool:
    """Write over exactly this version; whether `body` is there by this call, or by an equal one.

    False says that something else is there now. After a lost acknowledgement ours may have been
    there before it, so whoever builds on what others wrote must be able to find in it what is
    their own.
    """
    return _write_if(uri, body, {"IfMatch": version})


def list_names(uri: str) -> list[str]:
    return sorted({name.rstrip("/").rpartition("/")[2] for name in _names_below(uri, "/")})


def delete(uri: str) -> None:
    """One object or all below a prefix, and unfinished uploads of them. Keys are deleted one by
    one: a request that lists them is a body that may change on the way."""
    bucket, key = split(uri)
    if not key:
        raise StorageError("uri", uri, "is a whole bucket", "Name a prefix in it.")
    delete_objects([f"s3://{bucket}/{name}" for name in [key, *_names_below(uri, "")]])
    abort_uploads(uri)


def delete_objects(uris: list[str]) -> None:
    in_parallel([functools.partial(delete_object, each) for each in uris])


def abort_uploads(uri: str) -> None:
    """Those that are unfinished, of one object or of all below a prefix."""
    while uploads := _unfinished_uploads(uri):  # a page of them at a time
        for upload in uploads:
            request(uri, functools.partial(_abort, upload=upload))


def delete_object(uri: str) -> None:
    request(uri, lambda client, bucket, key: client.delete_object(Bucket=bucket, Key=key))


def pages(uri: str, **arguments: str) -> Iterator[dict[str, Any]]:
    """A listing of the bucket, a page at a time."""
    token: dict[str, str] = {}
    while True:
        page = _believed(uri, "list_objects_v2", {**arguments, **token})
        yield page
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def request(uri: str, call: Callable[[Any, str, str], T]) -> T:
    """Call with client, bucket and key, again after what may pass. FileNotFoundError,
    PreconditionFailed, StorageError."""
    bucket, key = split(uri)
    limit = retries.patience()
    try:
        client = _client(os.environ.get("AWS_ENDPOINT_URL_S3"), os.getpid(), limit)
        return retries.call(lambda: call(client, bucket, key), is_transient)
    except StorageError:
        raise
    except (aws.ClientError, aws.BotoCoreError, *_GARBLED, urllib3.exceptions.HTTPError, Spoiled) as error:
        if _is_missing(error):
            raise FileNotFoundError(uri) from None
        if code_of(error) == NO_UPLOAD:
            raise UploadGone(uri) from None
        if _status(error) == 412:
            raise PreconditionFailed(uri) from None
        raise explained(error, uri) from None  # the SDK's own error may carry what must not be logged


class PreconditionFailed(Exception):
    """Another version is there than the one that was named."""


class UploadGone(Exception):
    """The store knows no upload of this id, any more or at all."""


def is_transient(error: Exception) -> bool:
    if isinstance(error, aws.ClientError):
        code, status = code_of(error), _status(error)
        garbled = status == 404 and code not in ("NoSuchBucket", NO_UPLOAD) and not _is_missing(error)
        is_passing = status >= 500 and status != NOT_IMPLEMENTED
        return is_passing or status == 429 or code in _LOST_ON_THE_WAY or garbled
    if isinstance(error, _GARBLED):
        return not isinstance(error, StorageError)
    passing = (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError, aws.FlexibleChecksumError)
    return isinstance(error, (*passing, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError, Spoiled))


def explained(error: Exception, uri: str) -> StorageError:
    """One line for people, without keys, tokens or signatures."""
    bucket, code = split(uri)[0], code_of(error)
    if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)):
        rule = "no credentials were found in the SDK's standard chain (environment, ~/.aws, the machine's role)"
        return StorageError("uri", uri, rule, "Provide them there; memlm takes them from nowhere else.")
    if isinstance(error, (aws.EndpointConnectionError, aws.ConnectTimeoutError)):
        remedy = "Check AWS_ENDPOINT_URL_S3, the region and the network."
        return StorageError("uri", uri, f"nothing answers at {endpoint()}", remedy)
    known = _EXPLAINED.get(_SAME.get(code, code))
    if known is not None:
        headers = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region", "")
        return StorageError(
            "uri", uri, f"{known[0].format(bucket=bucket, region=region and f', {region}')} (S3: {code})", known[1]
        )
    remedy = "Check the bucket, your rights on it, AWS_ENDPOINT_URL_S3 and the credentials."
    told = f"its answer has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return StorageError("uri", uri, f"S3: {without_secrets(told).rstrip('.')}", remedy)


def drain(response: dict[str, Any], size: int | None = None) -> bytes:
    """The body, at a bearable rate and in full. The raw stream, because only it gives what has
    come so far."""
    limit, began = retries.patience(), time.monotonic()
    stream, chunks, have = response["Body"]._raw_stream, [], 0
    told = response.get("ContentLength", size)  # a proxy on the way may leave it out
    try:
        while chunk := stream.read1(1 << 20):
            chunks.append(chunk)
            have += len(chunk)
            spent = time.monotonic() - began
            if spent > limit.silence_seconds and have < limit.least_bytes_per_second * spent:
                raise Spoiled(f"a body came at {have / spent:.0f} bytes per second")
    except (http.client.HTTPException, urllib3.exceptions.HTTPError, OSError) as error:
        raise Spoiled(f"a body broke off ({type(error).__name__})") from error
    finally:
        stream.close()  # a connection whose body was not read to the end can't serve another request
    if any(wanted is not None and have != int(wanted) for wanted in (told, size)):
        raise Spoiled(f"a body of {told} bytes ended after {have}")
    return b"".join(chunks)


def head(client: Any, bucket: str, key: str) -> dict[str, Any]:
    """ETag, metadata and, also where the store's answer lacks it, the size of an object."""
    found: dict[str, Any] = client.head_object(Bucket=bucket, Key=key)
    if "ContentLength" not in found:
        found["ContentLength"] = _size(client, bucket, key, found["ETag"])
    return found


def _size(client: Any, bucket: str, key: str, etag: str) -> int:
    """As the answer to a request for the first byte tells it; that of the whole body where a
    store or proxy ignores ranges."""
    try:
        first = client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    except aws.ClientError as error:
        if _status(error) == 416:  # there is no first byte
            return 0
        raise
    body = drain(first)
    if first["ETag"] != etag:
        raise Spoiled(f"{key} was written over")
    return int(first["ContentRange"].rpartition("/")[2]) if "ContentRange" in first else len(body)


def _says_where_it_ends(response: dict[str, Any]) -> bool:
    """Else the end of the connection is the end of the body, and a cut looks like it."""
    coding = response["ResponseMetadata"]["HTTPHeaders"].get("transfer-encoding", "")
    return "ContentLength" in response or coding.lower() == "chunked"


def is_md5(etag: str, body: bytes) -> bool:
    return etag.strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest()


def is_protected(client: Any) -> bool:
    """Whether what travels can't change unnoticed."""
    return bool(client.meta.endpoint_url.startswith("https://"))


def is_safe_on_the_way(uri: str) -> bool:
    return request(uri, lambda client, bucket, key: is_protected(client))


def sum_of(body: bytes) -> str:
    """As S3 wants it in ContentMD5."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def in_parallel(tasks: list[Callable[[], T]]) -> list[T]:
    """Results in order. The first error ends it; what has not begun by then never does."""
    if len(tasks) < 2:
        return [task() for task in tasks]
    with ThreadPoolExecutor(max_workers=min(WORKERS, len(tasks))) as pool:
        running = [pool.submit(copy_context().run, task) for task in tasks]
        try:
            return [each.result() for each in running]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.strip("/")


def endpoint() -> str:
    return redacted(os.environ.get("AWS_ENDPOINT_URL_S3") or "the region's endpoint")


def code_of(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, aws.ClientError) else ""


@functools.lru_cache(maxsize=8)
def _client(endpoint_url: str | None, process: int, limit: retries.Patience) -> Any:
    """One per process, which threads share, as boto3 allows of clients."""
    tidy(*AWS)
    settings = Config(
        connect_timeout=limit.connect_seconds,
        read_timeout=limit.silence_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=4 * WORKERS,
        # Not every store takes S3's checksum headers and trailers. Who wants the SDK's besides
        # ours sets its variables.
        request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
        response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=settings)


def _put(client: Any, bucket: str, key: str, body: bytes, **condition: str) -> str:
    """The ETag of what was stored."""
    sent = {SENT: hashlib.sha256(body).hexdigest()}
    answer = client.put_object(Bucket=bucket, Key=key, Body=body, ContentMD5=sum_of(body), Metadata=sent, **condition)
    return str(answer.get("ETag", ""))


def _write_if(uri: str, body: bytes, condition: dict[str, str]) -> bool:
    ours = hashlib.sha256(body).hexdigest()
    for _ in range(retries.patience().attempts):
        with suppress(PreconditionFailed, FileNotFoundError):  # which an earlier attempt of our own may have caused
            stored = request(uri, functools.partial(_put, body=body, **condition))
            if is_md5(stored, body) or is_safe_on_the_way(uri):
                return True
        found = read(uri)
        if found is not None and found.body == body:
            return True
        if found is None or found.sha256 != ours:
            return False
        condition = {"IfMatch": found.version}  # ours; it changed on the way, and holds the name: put it right
    raise StorageError("uri", uri, "what is stored keeps differing from what was sent", "Check the network and store.")


def _names_below(uri: str, delimiter: str) -> Iterator[str]:
    """Keys, and with a delimiter the prefixes that it makes."""
    _, key = split(uri)
    for page in pages(uri, Prefix=key and f"{key}/", Delimiter=delimiter):
        yield from (item["Key"] for item in page.get("Contents", []))
        yield from (item["Prefix"] for item in page.get("CommonPrefixes", []))


def all_names(uri: str) -> list[str]:
    """The names of the objects below a prefix, at any depth; relative to it."""
    _, key = split(uri)
    return [name[len(key) + 1 if key else 0 :] for name in _names_below(uri, "")]


def _unfinished_uploads(uri: str) -> list[dict[str, str]]:
    _, key = split(uri)
    page = _believed(uri, "list_multipart_uploads", {"Prefix": key})
    uploads = [{"Key": item["Key"], "UploadId": item["UploadId"]} for item in page.get("Uploads", [])]
    return [upload for upload in uploads if upload["Key"] == key or upload["Key"].startswith(f"{key}/")]


def _abort(client: Any, bucket: str, key: str, *, upload: dict[str, str]) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, **upload)
    except aws.ClientError as error:
        if code_of(error) != NO_UPLOAD:
            raise


def _believed(uri: str, operation: str, arguments: dict[str, str]) -> dict[str, Any]:
    """One page of a listing. Where no TLS protects it, the first that two reads agree on."""
    seen: list[list[Any]] = []

    def once(client: Any, bucket: str, key: str) -> dict[str, Any]:
        page: dict[str, Any] = getattr(client, operation)(Bucket=bucket, **arguments)
        content = [page.get(part) for part in ("Contents", "CommonPrefixes", "Uploads", "IsTruncated")]
        if not is_protected(client) and content not in seen:
            seen.append(content)
            raise Spoiled(uri)
        return page

    return request(uri, once)


def _age(response: dict[str, Any]) -> float:
    """Both times are the store's, so no node's clock matters. Where they are not told, it may be
    new."""
    now = response["ResponseMetadata"]["HTTPHeaders"].get("date")
    if now is None or "LastModified" not in response:
        return 0.0
    return float((parsedate_to_datetime(now) - response["LastModified"]).total_seconds())


def _is_missing(error: Exception) -> bool:
    """Only a HEAD may say so by its status alone: elsewhere that is what the SDK makes of a body
    it can't read."""
    code = code_of(error)
    by_status = code in ("404", "NotFound") and getattr(error, "operation_name", "") == "HeadObject"
    return code == "NoSuchKey" or by_status


def _status(error: Exception) -> int:
    if not isinstance(error, aws.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
