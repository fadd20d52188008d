"""Which files does a data set on the Hugging Face hub hold at one commit, and how do they come here?

    hf://datasets/owner/name@commit[/folder]       files, as in huggingface_hub's own file system

A commit is named and never a branch, so that a later run reads the same bytes. HF_ENDPOINT names another server that speaks
the hub's interface; a token, where one is needed, comes from the hub client's own places.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memlm import storage

HUB = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_TIMEOUT_SECONDS = 10
FILES_FORM = "hf://datasets/owner/name@commit[/folder]"
FILES_URI = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+?)(?:@(?P<commit>[^/]*))?(?:/(?P<folder>.+?))?/?")
LARGE, SMALL = "sha256:", "git:"  # what the hub says of a large file, and of a small one that lies in git itself


class HubError(ValueError):
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
    """All files below an address, in any order. Raises HubError for one without a commit, and where the hub does not answer."""
    place = _parse(uri)
    # A second of imports that nothing but the hub needs.
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        # One question first, answered at once: a listing retries for most of a minute without a network.
        api.dataset_info(place.name, revision=place.commit, timeout=HUB_TIMEOUT_SECONDS)
        entries = api.list_repo_tree(
            place.name, place.folder or None, recursive=True, revision=place.commit, repo_type="dataset"
        )
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
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
    """One file of an address, as a temporary copy whose content was checked. Raises HubError if it is not that content."""
    place = _parse(uri)
    from huggingface_hub import hf_hub_download

    with storage.folder_for_copies() as folder:
        try:
            path = Path(
                hf_hub_download(
                    place.name,
                    f"{place.folder}/{name}" if place.folder else name,
                    repo_type="dataset",
                    revision=place.commit,
                    local_dir=folder,
                    endpoint=os.environ.get("HF_ENDPOINT"),
                )
            )
        except Exception as error:  # as above
            raise HubUnreachable(_unanswered(f"{uri}/{name}", "could not be fetched", error)) from error
        found = _version_of(path, version)
        if found != version:
            raise HubError(
                f"{uri}/{name}: its content is {found}, and {version} was listed. Fetch it again; if that does not help, the hub's copy changed."
            )
        yield path


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
        "Mend the address, the network or the token, or give the path of a local copy instead."
    )
