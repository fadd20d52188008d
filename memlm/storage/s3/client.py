"""Single objects on S3, read and written so that no transfer fault corrupts, loses or duplicates
one.

up    Every body carries its MD5 (Content-MD5), which stores check: all of them know it, while some
      refuse S3's newer checksum headers. Without TLS a store might ignore it, so the ETag decides:
      it must be the MD5 of the stored bytes, or else the object is read back and compared.
down  A body is trusted if its MD5 is the ETag, if it came over TLS and in full, or if two reads
      agree. Listings carry no checksum; without TLS they are read until two agree. Sizes need not
      be declared in advance.
once  A conditional write whose acknowledgement was lost meets its own result when it is retried:
      after "precondition failed" the object is read back, and if it holds our body, the write
      succeeded.
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

from memlm.credentials import AWS, redacted, strip_credentials, without_secrets
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
"""Maximum number of simultaneous requests of one process."""

SENT = "sha256"
"""Metadata key of every small object: the SHA-256 of the bytes that its writer sent."""
MAX_REREADS = 3
"""Maximum number of times a damaged object is read again."""

T = TypeVar("T")
NO_UPLOAD = "NoSuchUpload"
NOT_IMPLEMENTED = 501
_TRANSIENT_CODES = (  # answers to requests that were garbled, throttled or in conflict with another one
    *("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"),
    *("MalformedXML", "RequestTimeout", "RequestTimeTooSkewed", "InvalidPart", "InvalidPartOrder", "OperationAborted"),
    *("ConditionalRequestConflict", "SlowDown", "Throttling", "ThrottlingException"),
)
_UNPARSABLE_ANSWERS = (
    ResponseParserError,
    ValueError,
    LookupError,
)  # raised by the SDK for an answer that it cannot parse
_NO_RIGHTS = ("AccessDenied", "AllAccessDisabled", "403", "Forbidden")
_EXPLANATIONS = {
    "NoSuchBucket": ("bucket {bucket} does not exist", "Create it, or correct the name."),
    "ExpiredToken": ("the session's token has expired", "Get new credentials and start again: nothing done is lost."),
    "InvalidAccessKeyId": ("the store does not know these credentials", "Check the profile, or the environment."),
    "SignatureDoesNotMatch": ("the secret key is wrong", "Check the profile, or the environment."),
    "AuthorizationHeaderMalformed": ("bucket {bucket} is in another region{region}", "Set AWS_REGION to it."),
    "AccessDenied": ("these credentials have no right to do this", "Grant it, or use other credentials."),
    "NotImplemented": (
        "the store lacks a part of S3 that memlm needs",
        "Use one that honours conditional writes: AWS S3, or a current MinIO or Ceph.",
    ),
}
_SYNONYMS = {
    **dict.fromkeys(("ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), "ExpiredToken"),
    **dict.fromkeys(("PermanentRedirect", "301", "IllegalLocationConstraintException"), "AuthorizationHeaderMalformed"),
    **dict.fromkeys(("InvalidToken", "UnrecognizedClientException"), "InvalidAccessKeyId"),
    **dict.fromkeys(_NO_RIGHTS, "AccessDenied"),
}


class CorruptTransfer(Exception):
    """A transfer that was cut, too slow or not the expected content. A retry may help."""


def read(uri: str, *, with_age: bool = False) -> Found | None:
    """The object at `uri`, or None. A damaged object is reread a few times first, so that its
    writer has time to repair it."""
    seen: list[bytes] = []
    damaged: list[Found] = []

    def once(client: Any, bucket: str, key: str) -> Found:
        response = client.get_object(Bucket=bucket, Key=key)
        sent = response.get("Metadata", {}).get(SENT, "")
        age = _age(response) if with_age else 0
        found = Found(body=read_body(response), version=response["ETag"], age_seconds=age, sha256=sent)
        safe = uses_tls(client) and _declares_its_end(response)
        if not (is_md5(response["ETag"], found.body) or safe or found.body in seen):
            seen.append(found.body)
            raise CorruptTransfer(uri)
        if found.is_damaged and len(damaged) < MAX_REREADS:
            damaged.append(found)
            raise CorruptTransfer(uri)
        return found

    try:
        return request(uri, once)
    except FileNotFoundError:
        return None


def write(uri: str, body: bytes) -> None:
    def once(client: Any, bucket: str, key: str) -> None:
        stored = _put(client, bucket, key, body)
        if not (is_md5(stored, body) or uses_tls(client)):
            found = read(uri)
            if found is not None and found.version == stored and found.body != body:
                raise CorruptTransfer(uri)  # otherwise it is ours, or another writer has replaced it since

    request(uri, once)


def create(uri: str, body: bytes) -> bool:
    """Write only if nothing is there. Returns whether `body` is there now, by this call or an
    equal one."""
    return _write_if(uri, body, {"IfNoneMatch": "*"})


def replace(uri: str, body: bytes, version: str) -> bool:
    """Write only over exactly this version. Returns whether `body` is there now, by this call or
    an equal one.

    False means that something else is there. After a lost acknowledgement our body may have been
    there for a moment, so writers that build on each other's content must be able to recognise
    their own part in it.
    """
    return _write_if(uri, body, {"IfMatch": version})


def list_names(uri: str) -> list[str]:
    return sorted({name.rstrip("/").rpartition("/")[2] for name in _names_below(uri, "/")})


def delete(uri: str) -> None:
    """Delete one object, or all objects below a prefix, and their unfinished uploads. Keys are
    deleted one by one, because a request that lists keys is a body that may be corrupted."""
    bucket, key = split(uri)
    if not key:
        raise StorageError("uri", uri, "is a whole bucket", "Name a prefix in it.")
    delete_objects([f"s3://{bucket}/{name}" for name in [key, *_names_below(uri, "")]])
    abort_uploads(uri)


def delete_objects(uris: list[str]) -> None:
    in_parallel([functools.partial(delete_object, each) for each in uris])


def abort_uploads(uri: str) -> None:
    """Abort the unfinished uploads of one object, or of all objects below a prefix."""
    while uploads := _unfinished_uploads(uri):  # a page of them at a time
        for upload in uploads:
            request(uri, functools.partial(_abort, upload=upload))


def delete_object(uri: str) -> None:
    request(uri, lambda client, bucket, key: client.delete_object(Bucket=bucket, Key=key))


def pages(uri: str, **arguments: str) -> Iterator[dict[str, Any]]:
    """A listing of the bucket, a page at a time."""
    token: dict[str, str] = {}
    while True:
        page = _trusted_page(uri, "list_objects_v2", {**arguments, **token})
        yield page
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def request(uri: str, call: Callable[[Any, str, str], T]) -> T:
    """Call with client, bucket and key, retrying after transient errors. Raises FileNotFoundError,
    PreconditionFailed, UploadGone or StorageError."""
    bucket, key = split(uri)
    limit = retries.current_policy()
    try:
        client = _client(os.environ.get("AWS_ENDPOINT_URL_S3"), os.getpid(), limit)
        return retries.call(lambda: call(client, bucket, key), is_transient)
    except StorageError:
        raise
    except (
        aws.ClientError,
        aws.BotoCoreError,
        *_UNPARSABLE_ANSWERS,
        urllib3.exceptions.HTTPError,
        CorruptTransfer,
    ) as error:
        if _is_missing(error):
            raise FileNotFoundError(uri) from None
        if code_of(error) == NO_UPLOAD:
            raise UploadGone(uri) from None
        if _status(error) == 412:
            raise PreconditionFailed(uri) from None
        raise explain_error(error, uri) from None  # the SDK's own error may contain what must not be logged


class PreconditionFailed(Exception):
    """The object is not at the version that the request named."""


class UploadGone(Exception):
    """The store does not know an upload of this id, or no longer does."""


def is_transient(error: Exception) -> bool:
    if isinstance(error, aws.ClientError):
        code, status = code_of(error), _status(error)
        garbled = status == 404 and code not in ("NoSuchBucket", NO_UPLOAD) and not _is_missing(error)
        is_passing = status >= 500 and status != NOT_IMPLEMENTED
        return is_passing or status == 429 or code in _TRANSIENT_CODES or garbled
    if isinstance(error, _UNPARSABLE_ANSWERS):
        return not isinstance(error, StorageError)
    passing = (aws.ConnectionError, aws.HTTPClientError, aws.IncompleteReadError, aws.FlexibleChecksumError)
    return isinstance(error, (*passing, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError, CorruptTransfer))


def explain_error(error: Exception, uri: str) -> StorageError:
    """The error on one line for people, without keys, tokens or signatures."""
    bucket, code = split(uri)[0], code_of(error)
    if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)):
        rule = "no credentials were found in the SDK's standard chain (environment, ~/.aws, the machine's role)"
        return StorageError("uri", uri, rule, "Provide them there; memlm takes them from nowhere else.")
    if isinstance(error, (aws.EndpointConnectionError, aws.ConnectTimeoutError)):
        remedy = "Check AWS_ENDPOINT_URL_S3, the region and the network."
        return StorageError("uri", uri, f"nothing answers at {endpoint()}", remedy)
    known = _EXPLANATIONS.get(_SYNONYMS.get(code, code))
    if known is not None:
        headers = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region", "")
        return StorageError(
            "uri", uri, f"{known[0].format(bucket=bucket, region=region and f', {region}')} (S3: {code})", known[1]
        )
    remedy = "Check the bucket, your rights on it, AWS_ENDPOINT_URL_S3 and the credentials."
    reason = f"its answer has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return StorageError("uri", uri, f"S3: {without_secrets(reason).rstrip('.')}", remedy)


def read_body(response: dict[str, Any], size: int | None = None) -> bytes:
    """The complete body, received at an acceptable rate. Uses the raw stream, because only that
    returns the bytes received so far."""
    limit, began = retries.current_policy(), time.monotonic()
    stream, chunks, have = response["Body"]._raw_stream, [], 0
    declared = response.get("ContentLength", size)  # a proxy on the way may leave it out
    try:
        while chunk := stream.read1(1 << 20):
            chunks.append(chunk)
            have += len(chunk)
            spent = time.monotonic() - began
            if spent > limit.silence_seconds and have < limit.min_bytes_per_second * spent:
                raise CorruptTransfer(f"a body came at {have / spent:.0f} bytes per second")
    except (http.client.HTTPException, urllib3.exceptions.HTTPError, OSError) as error:
        raise CorruptTransfer(f"a body broke off ({type(error).__name__})") from error
    finally:
        stream.close()  # a connection whose body was not read to the end can't serve another request
    if any(wanted is not None and have != int(wanted) for wanted in (declared, size)):
        raise CorruptTransfer(f"a body of {declared} bytes ended after {have}")
    return b"".join(chunks)


def head(client: Any, bucket: str, key: str) -> dict[str, Any]:
    """ETag, metadata and size of an object. Adds the size where the store's answer lacks it."""
    found: dict[str, Any] = client.head_object(Bucket=bucket, Key=key)
    if "ContentLength" not in found:
        found["ContentLength"] = _size(client, bucket, key, found["ETag"])
    return found


def _size(client: Any, bucket: str, key: str, etag: str) -> int:
    """Size from the answer to a request for the first byte, or the length of the body if a store
    or proxy ignores ranges and sends it whole."""
    try:
        first = client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    except aws.ClientError as error:
        if _status(error) == 416:  # there is no first byte
            return 0
        raise
    body = read_body(first)
    if first["ETag"] != etag:
        raise CorruptTransfer(f"{key} was overwritten")
    return int(first["ContentRange"].rpartition("/")[2]) if "ContentRange" in first else len(body)


def _declares_its_end(response: dict[str, Any]) -> bool:
    """Whether the response says how long its body is. Otherwise the end of the connection ends the
    body, and a truncated body looks complete."""
    coding = response["ResponseMetadata"]["HTTPHeaders"].get("transfer-encoding", "")
    return "ContentLength" in response or coding.lower() == "chunked"


def is_md5(etag: str, body: bytes) -> bool:
    return etag.strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest()


def uses_tls(client: Any) -> bool:
    """Whether data in transit cannot be changed unnoticed."""
    return bool(client.meta.endpoint_url.startswith("https://"))


def is_sent_over_tls(uri: str) -> bool:
    return request(uri, lambda client, bucket, key: uses_tls(client))


def md5_base64(body: bytes) -> str:
    """MD5 in the form of S3's ContentMD5."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def in_parallel(tasks: list[Callable[[], T]]) -> list[T]:
    """Results in the order of the tasks. The first error ends it, and tasks that have not begun by
    then never do."""
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
def _client(endpoint_url: str | None, process: int, limit: retries.RetryPolicy) -> Any:
    """One client per process, shared by its threads, as boto3 permits."""
    strip_credentials(*AWS)
    settings = Config(
        connect_timeout=limit.connect_seconds,
        read_timeout=limit.silence_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=4 * WORKERS,
        # Not every store accepts S3's checksum headers and trailers. To add the SDK's checksums to
        # ours, set its variables.
        request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
        response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=settings)


def _put(client: Any, bucket: str, key: str, body: bytes, **condition: str) -> str:
    """Store an object and return its ETag."""
    sent = {SENT: hashlib.sha256(body).hexdigest()}
    answer = client.put_object(
        Bucket=bucket, Key=key, Body=body, ContentMD5=md5_base64(body), Metadata=sent, **condition
    )
    return str(answer.get("ETag", ""))


def _write_if(uri: str, body: bytes, condition: dict[str, str]) -> bool:
    ours = hashlib.sha256(body).hexdigest()
    for _ in range(retries.current_policy().attempts):
        with suppress(PreconditionFailed, FileNotFoundError):  # an earlier attempt of our own may have caused these
            stored = request(uri, functools.partial(_put, body=body, **condition))
            if is_md5(stored, body) or is_sent_over_tls(uri):
                return True
        found = read(uri)
        if found is not None and found.body == body:
            return True
        if found is None or found.sha256 != ours:
            return False
        condition = {"IfMatch": found.version}  # our write, corrupted in transit, occupies the name: overwrite it
    raise StorageError(
        "uri", uri, "the stored bytes keep differing from the bytes sent", "Check the network and store."
    )


def _names_below(uri: str, delimiter: str) -> Iterator[str]:
    """Keys and, with a delimiter, the common prefixes."""
    _, key = split(uri)
    for page in pages(uri, Prefix=key and f"{key}/", Delimiter=delimiter):
        yield from (item["Key"] for item in page.get("Contents", []))
        yield from (item["Prefix"] for item in page.get("CommonPrefixes", []))


def all_names(uri: str) -> list[str]:
    """Names of the objects below a prefix, at any depth, relative to it."""
    _, key = split(uri)
    return [name[len(key) + 1 if key else 0 :] for name in _names_below(uri, "")]


def _unfinished_uploads(uri: str) -> list[dict[str, str]]:
    _, key = split(uri)
    page = _trusted_page(uri, "list_multipart_uploads", {"Prefix": key})
    uploads = [{"Key": item["Key"], "UploadId": item["UploadId"]} for item in page.get("Uploads", [])]
    return [upload for upload in uploads if upload["Key"] == key or upload["Key"].startswith(f"{key}/")]


def _abort(client: Any, bucket: str, key: str, *, upload: dict[str, str]) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, **upload)
    except aws.ClientError as error:
        if code_of(error) != NO_UPLOAD:
            raise


def _trusted_page(uri: str, operation: str, arguments: dict[str, str]) -> dict[str, Any]:
    """One page of a listing. Without TLS, the first content that two reads agree on."""
    seen: list[list[Any]] = []

    def once(client: Any, bucket: str, key: str) -> dict[str, Any]:
        page: dict[str, Any] = getattr(client, operation)(Bucket=bucket, **arguments)
        content = [page.get(part) for part in ("Contents", "CommonPrefixes", "Uploads", "IsTruncated")]
        if not uses_tls(client) and content not in seen:
            seen.append(content)
            raise CorruptTransfer(uri)
        return page

    return request(uri, once)


def _age(response: dict[str, Any]) -> float:
    """Age in seconds. Both times come from the store, so no node's clock matters. 0 if the store
    gives no times: the object may be new."""
    now = response["ResponseMetadata"]["HTTPHeaders"].get("date")
    if now is None or "LastModified" not in response:
        return 0.0
    return float((parsedate_to_datetime(now) - response["LastModified"]).total_seconds())


def _is_missing(error: Exception) -> bool:
    """Whether the object does not exist. Only the status of a HEAD proves that; for other requests
    the SDK also reports it when it cannot parse the body."""
    code = code_of(error)
    by_status = code in ("404", "NotFound") and getattr(error, "operation_name", "") == "HeadObject"
    return code == "NoSuchKey" or by_status


def _status(error: Exception) -> int:
    if not isinstance(error, aws.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
