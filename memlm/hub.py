"""List and download the files of a data set or a model on the Hugging Face hub at one commit.

    hf://datasets/owner/name@commit[/folder]       files, as in huggingface_hub's own file system
    owner/name@commit                              a model

Addresses name a commit instead of a branch, so that a later run reads the same bytes. HF_ENDPOINT
names another server with the hub's interface; a token, if needed, comes from the hub client's own
configuration. Requests to a busy or silent server are retried like those to a store
(storage/retries.py); interrupted downloads are resumed.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from memlm import storage
from memlm.credentials import HUB as HUB_TOKENS
from memlm.credentials import PublicError, strip_credentials
from memlm.storage import retries

T = TypeVar("T")
HUB = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_TIMEOUT_SECONDS = 10
ATTEMPTS_TO_REACH = 3
"""Attempts of the first request. After a timeout it is not retried, so that a missing network is
reported within seconds, not minutes."""
BUSY = (408, 425, 429)
"""Statuses that ask to retry later. So do all from 500 on."""
MODEL_FORM = "owner/name@commit"
MODEL_ID = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<commit>[^/]*))?")
FILES_FORM = "hf://datasets/owner/name@commit[/folder]"
FILES_URI = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<commit>[^/]*))?(?:/(?P<folder>.+?))?/?")
LARGE, SMALL = "sha256:", "git:"  # prefixes of the hub's digests of large files, and of small ones stored in git


class HubError(PublicError):
    """The hub does not have the requested data, or does not answer."""


class HubUnreachable(HubError):
    """The hub did not answer, or refused. The address itself is well formed."""


@dataclass(frozen=True)
class HubFile:
    name: str
    """Name relative to the folder of the address."""
    bytes: int
    version: str
    """Digest of the content: LARGE or SMALL followed by hexadecimal digits."""


@dataclass(frozen=True)
class _Place:
    name: str
    commit: str
    folder: str = ""
    kind: str = "dataset"


def list_files(uri: str) -> list[HubFile]:
    """All files below an address, in any order. Raises HubError for an address without a commit, or
    if the hub does not answer."""
    return _list(uri, _parse(uri))


def list_model(model_id: str) -> list[HubFile]:
    """All files of a model. Raises HubError as list_files does."""
    return _list(model_id, _parse_model(model_id))


def _list(uri: str, place: _Place) -> list[HubFile]:
    strip_credentials(*HUB_TOKENS)
    # Imported here, because it takes a second and only the hub needs it.
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def tree() -> list[RepoFile]:
        entries = api.list_repo_tree(
            place.name, place.folder or None, recursive=True, revision=place.commit, repo_type=place.kind
        )
        return [entry for entry in entries if isinstance(entry, RepoFile)]

    try:
        usual = retries.current_policy()
        with retries.using_policy(replace(usual, attempts=min(usual.attempts, ATTEMPTS_TO_REACH))):
            retries.call(
                lambda: api.repo_info(
                    place.name, revision=place.commit, repo_type=place.kind, timeout=HUB_TIMEOUT_SECONDS
                ),
                lambda error: _is_transient(error) and "Timeout" not in type(error).__name__,
            )
        files = _with_retries(tree)
    except Exception as error:  # the hub's client lets a dozen kinds of lower-level errors through
        raise HubUnreachable(_unanswered(uri, "could not be listed", error)) from error
    start = f"{place.folder}/" if place.folder else ""
    return [
        HubFile(
            file.path.removeprefix(start),
            file.size,
            f"{LARGE}{file.lfs.sha256}" if file.lfs else f"{SMALL}{file.blob_id}",
        )
        for file in files
    ]


@contextmanager
def temporary_copy(uri: str, name: str, version: str) -> Iterator[Path]:
    """A temporary copy of one file of an address, with checked content. Raises HubError if the
    content does not have the expected digest."""
    place = _parse(uri)
    strip_credentials(*HUB_TOKENS)
    from huggingface_hub import hf_hub_download

    with storage.folder_for_copies() as folder:

        def download(*, again: bool) -> Path:
            path = hf_hub_download(
                place.name,
                f"{place.folder}/{name}" if place.folder else name,
                repo_type="dataset",
                revision=place.commit,
                local_dir=folder,
                endpoint=os.environ.get("HF_ENDPOINT"),
                force_download=again,
            )
            return Path(path)

        yield _checked(f"{uri}/{name}", version, download)


def find_cached_model(model_id: str) -> Path | None:
    """The folder with what the hub client's own cache holds of a model, without a request; None if
    it holds nothing. A download may have been interrupted."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    place = _parse_model(model_id)
    try:
        return Path(snapshot_download(place.name, revision=place.commit, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def cached_model(model_id: str, files: Sequence[HubFile]) -> Path:
    """The folder in the hub client's own cache with these files of a model, downloaded where they
    are missing. Raises HubError if the content does not have the listed digest."""
    from huggingface_hub import hf_hub_download

    place, folder = _parse_model(model_id), Path()
    for file in files:

        def download(*, again: bool, name: str = file.name) -> Path:
            endpoint = os.environ.get("HF_ENDPOINT")
            path = hf_hub_download(place.name, name, revision=place.commit, endpoint=endpoint, force_download=again)
            return Path(path)

        path = _checked(f"{model_id}/{file.name}", file.version, download)
        folder = Path(str(path).removesuffix(file.name))
    return folder


def _checked(address: str, version: str, download: Callable[..., Path]) -> Path:
    """The downloaded file, whose content has the expected digest."""
    try:
        path = _with_retries(lambda: download(again=False))
        if _version_of(path, version) != version:  # possibly corrupted in transit
            path = _with_retries(lambda: download(again=True))
    except Exception as error:  # as above
        raise HubUnreachable(_unanswered(address, "could not be downloaded", error)) from error
    found = _version_of(path, version)
    if found != version:
        raise HubError(
            f"{address}: its content was {found} in two downloads, but {version} was listed. The hub's copy changed, or a proxy corrupts it; check both."
        )
    return path


def _with_retries(question: Callable[[], T]) -> T:
    return retries.call(question, _is_transient)


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may help, by the status of the answer if there was one. Large files come
    through hf_xet, which describes errors in words only."""
    import httpx2  # the hub client's own

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in BUSY or status >= 500
    if isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError)) or type(error) is RuntimeError:
        return True
    if "Consistency check failed" in str(error):  # an incomplete download
        return True
    return error.__cause__ is not None and _is_transient(error.__cause__)


def _version_of(path: Path, version: str) -> str:
    with path.open("rb") as file:
        if version.startswith(LARGE):
            return LARGE + hashlib.file_digest(file, "sha256").hexdigest()
        content = file.read()
    return SMALL + hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _parse(uri: str) -> _Place:
    found = FILES_URI.fullmatch(uri)
    if found is None:
        raise HubError(f"{uri}: not an address of files on the hub. Write {FILES_FORM}.")
    return _Place(found["name"], _commit(uri, found["commit"], FILES_FORM), found["folder"] or "")


def _parse_model(model_id: str) -> _Place:
    found = MODEL_ID.fullmatch(model_id)
    if found is None:
        raise HubError(f"{model_id}: not the id of a model on the hub. Write {MODEL_FORM}.")
    return _Place(found["name"], _commit(model_id, found["commit"], MODEL_FORM), kind="model")


def _commit(uri: str, commit: str | None, form: str) -> str:
    if not commit or not COMMIT.fullmatch(commit):
        pinned = f"{commit!r}, which may later refer to other data" if commit else "missing, so the data may change"
        raise HubError(
            f"{uri}: the revision is {pinned}. Write {form} with the 40 digits of a commit, which its history on the hub shows."
        )
    return commit


def _unanswered(uri: str, what: str, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return (
        f"{uri}: {what} on the hub: {reason.rstrip('.')}. "
        "Correct the address, check the network or the token, or give the path of a local copy instead."
    )
