"""Find the wanted files in a folder or in a store's listing, and record the others: every name is
either used or reported.

Links are followed, and each real file and folder is used once: under its own name if that lies in
the folder. A link back to a folder that contains it is left out.
"""

import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from memlm.data.file_kinds import SHARD_SUFFIXES, ShardError, hidden_part, is_shard

SHOWN = 20
"""Number of names per reason that a message lists."""
HIDDEN = "hidden, or a system folder"
OTHER_KIND = "not a supported kind of file"
BROKEN_LINK = "a broken link"
SEEN_BEFORE = "a link to something listed under another name"
LOOP = "a link to a folder that contains it"
NO_FILE = "neither a file nor a folder"

Report = Callable[[str], object]


@dataclass(frozen=True)
class LeftOut:
    name: str
    """Name relative to the root; a folder's name ends in a slash."""
    reason: str


def list_shards(path: str, *, report: Report) -> list[str]:
    """All shard files at or under a local path, sorted by path so that every machine sees the same
    order.

    Other files are reported. Raises ShardError if there is no shard, or a folder that cannot be
    listed.
    """
    if "://" in path:
        raise ShardError(f"{path}: a remote address, but a local path is needed. Open it through storage first.")
    root = Path(path)
    if root.is_file():
        found, left_out = ([root], []) if is_shard(root.name) else ([], [LeftOut(root.name, OTHER_KIND)])
    elif root.is_dir():
        found, left_out = list_files(root, is_shard)
    else:
        raise ShardError(f"{path}: does not exist. Give a folder that holds shards ({SHARD_SUFFIXES}).")
    require_shards(path, found, left_out, report)
    return [str(each) for each in sorted(found)]


def split_names(names: Iterable[str]) -> tuple[list[str], list[LeftOut]]:
    """The shards among the files of a store, and the files left out. Names there that end in a
    slash represent folders and have no content."""
    shards, left_out = [], dict[LeftOut, None]()
    for name in names:
        if hidden := hidden_part(name):
            left_out[LeftOut(hidden, HIDDEN)] = None
        elif is_shard(name):
            shards.append(name)
        elif name and not name.endswith("/"):
            left_out[LeftOut(name, OTHER_KIND)] = None
    return shards, list(left_out)


def require_shards(path: str, shards: Sequence[object], left_out: Sequence[LeftOut], report: Report) -> None:
    """Report the files left out. Raises ShardError if there are no others."""
    messages = list(describe_left_out(left_out))
    if not shards:
        seen = f" Files left out: {'; '.join(messages)}." if messages else ""
        raise ShardError(
            f"{path}: no shard found. A corpus is one or more files that end in {SHARD_SUFFIXES}, at any depth; correct the path.{seen}"
        )
    for message in messages:
        report(f"{path}: left out {message}")


def describe_left_out(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """One message per reason, with the number of files and their names."""
    by_reason = defaultdict(list)
    for each in left_out:
        by_reason[each.reason].append(each.name)
    for reason, names in sorted(by_reason.items()):
        shown, rest = sorted(names)[:SHOWN], sorted(names)[SHOWN:]
        kinds = Counter(PurePosixPath(name).suffix or "without a suffix" for name in rest)
        more = f" and {len(rest)} more ({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))})"
        yield f"{len(names)} ({reason}): {', '.join(map(repr, shown))}{more if rest else ''}"


def list_files(root: Path, is_wanted: Callable[[str], bool]) -> tuple[list[Path], list[LeftOut]]:
    """The files at any depth whose names are wanted, in no particular order, and the files left
    out. Raises ShardError for a folder that cannot be listed.

    Visits folders before links, so that a file in the folder is found under its own name.
    """
    found: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    folders, links = [root], list[Path]()
    listed: set[str] = set()
    while folders or links:
        if folders:
            folder = folders.pop()
            listed.add(os.path.realpath(folder))
            for entry in _entries(folder):
                path = folder / entry.name
                name = path.relative_to(root).as_posix()
                if hidden_part(name):
                    left_out.append(LeftOut(f"{name}/" if entry.is_dir() else name, HIDDEN))
                elif entry.is_symlink():
                    heapq.heappush(links, path)
                elif entry.is_dir():
                    if os.path.realpath(path) in listed:  # a link led here first
                        left_out.append(LeftOut(f"{name}/", SEEN_BEFORE))
                    else:
                        folders.append(path)
                elif not entry.is_file():
                    left_out.append(LeftOut(name, NO_FILE))
                elif is_wanted(name):
                    _take(path, name, found, left_out)
                else:
                    left_out.append(LeftOut(name, OTHER_KIND))
            continue
        link = heapq.heappop(links)
        name, real = link.relative_to(root).as_posix(), os.path.realpath(link)
        if os.path.isdir(real):
            within = os.path.realpath(link.parent)
            if real == within or within.startswith(real.rstrip("/") + "/"):
                left_out.append(LeftOut(f"{name}/", LOOP))
            elif real in listed:
                left_out.append(LeftOut(f"{name}/", SEEN_BEFORE))
            else:
                folders.append(link)
        elif not os.path.exists(real):
            left_out.append(LeftOut(name, BROKEN_LINK))
        elif not os.path.isfile(real):
            left_out.append(LeftOut(name, NO_FILE))
        elif is_wanted(name):
            _take(link, name, found, left_out)
        else:
            left_out.append(LeftOut(name, OTHER_KIND))
    return list(found.values()), left_out


def _take(path: Path, name: str, found: dict[str, Path], left_out: list[LeftOut]) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:  # such a name can neither be printed nor stored as JSON
        raise ShardError(f"{name!r}: the file's name is not UTF-8. Rename it.") from error
    real = os.path.realpath(path)
    if real in found:
        left_out.append(LeftOut(name, SEEN_BEFORE))
    else:
        found[real] = path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ShardError(
            f"{folder}: cannot be listed ({error.strerror}). Allow this user to read the folder, or move it out of the corpus."
        ) from error
