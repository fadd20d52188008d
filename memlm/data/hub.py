"""Which files does a data set on the Hugging Face hub hold at one commit, and how do they come
here?

    hf://datasets/owner/name@commit[/folder]       files, as in huggingface_hub's own file system

A commit is named and never a branch, so that a later run reads the same bytes. HF_ENDPOINT names
another server that speaks the hub's interface; a token, where one is needed, comes from the hub
client's own places. A server that is busy or silent is asked again as patiently as a store is
(storage/retries.py); a body that was cut is gone on with.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
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
"""For the first question alone, and one if nobody answers in time: who has no network waits for
seconds, not for minutes."""
BUSY = (408, 425, 429)
"""Answers that mean: later. So does every one from 500 on."""
FILES_FORM = "hf://datasets/owner/name@commit[/folder]"
FILES_URI = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<commit>[^/]*))?(?:/(?P<folder>.+?))?/?")
LARGE, SMALL = "sha256:", "git:"  # what the hub says of a large file, and of a small one that lies in git itself


class HubError(PublicError):
    """The hub has not what is asked for, or does not answer."""


class HubUnreachable(HubError):
    """Nobody answered, or the answer was no; the address itself is well formed."""


@dataclass(frozen=True)
class HubFile:
    name: str
    """Below the folder of the address."""
    bytes: int
    version: str
    """The digest of its content: LARGE or SMALL and hexadecimal digits."""


@dataclass(frozen=True)
class _Place:
    name: str
    commit: str
    folder: str


def list_files(uri: str) -> list[HubFile]:
    """All files below an address, in any order. Raises HubError for one without a commit, and
    where the hub does not answer."""
    place = _parse(uri)
    strip_credentials(*HUB_TOKENS)
    # A second of imports that nothing but the hub needs.
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def tree() -> list[RepoFile]:
        entries = api.list_repo_tree(
            place.name, place.folder or None, recursive=True, revision=place.commit, repo_type="dataset"
        )
        return [entry for entry in entries if isinstance(entry, RepoFile)]

    try:
        usual = retries.current_policy()
        with retries.using_policy(replace(usual, attempts=min(usual.attempts, ATTEMPTS_TO_REACH))):
            retries.call(
                lambda: api.dataset_info(place.name, revision=place.commit, timeout=HUB_TIMEOUT_SECONDS),
                lambda error: _is_transient(error) and "Timeout" not in type(error).__name__,
            )
        files = _asked(tree)
    except Exception as error:  # the hub's client raises what lies below it, of a dozen kinds
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
def fetched(uri: str, name: str, version: str) -> Iterator[Path]:
    """One file of an address, as a temporary copy whose content was checked. Raises HubError if
    it is not that content."""
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

        try:
            path = _asked(lambda: download(again=False))
            if _version_of(path, version) != version:  # spoilt on its way, it may be
                path = _asked(lambda: download(again=True))
        except Exception as error:  # as above
            raise HubUnreachable(_unanswered(f"{uri}/{name}", "could not be fetched", error)) from error
        found = _version_of(path, version)
        if found != version:
            raise HubError(
                f"{uri}/{name}: its content is {found}, fetched twice, and {version} was listed. The hub's copy changed, or what lies between spoils it."
            )
        yield path


def _asked(question: Callable[[], T]) -> T:
    return retries.call(question, _is_transient)


def _is_transient(error: BaseException) -> bool:
    """By the status of the answer, where there was one. Large files come through hf_xet, which
    tells what went wrong in words alone."""
    import httpx2  # the hub client's own

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in BUSY or status >= 500
    if isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError)) or type(error) is RuntimeError:
        return True
    if "Consistency check failed" in str(error):  # cut short
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
    commit = found["commit"]
    if not commit or not COMMIT.fullmatch(commit):
        pinned = f"{commit!r}, which may come to name other data" if commit else "missing, so the data may change"
        raise HubError(
            f"{uri}: the revision is {pinned}. Write {FILES_FORM} with the 40 digits of a commit, which the data set's history on the hub shows."
        )
    return _Place(found["name"], commit, found["folder"] or "")


def _unanswered(uri: str, what: str, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return (
        f"{uri}: {what} on the hub: {reason.rstrip('.')}. "
        "Correct the address, check the network or the token, or give the path of a local copy instead."
    )
