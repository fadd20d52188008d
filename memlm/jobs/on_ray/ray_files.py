"""Storage of Ray's own files: on disk by Ray itself, on S3 through memlm.storage.

Ray Train and Tune mirror their own state, which no stage reads, to a place that all nodes see. By
default they use pyarrow, which gives up after three attempts, and would end a sweep whose trials
are all done. memlm.storage retries as long as for any other file.
"""

import io
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from memlm import storage


def ray_storage(uri: str) -> dict[str, Any]:
    """Arguments of a RunConfig, for Ray Train or Tune, that put Ray's files below `uri`."""
    if not storage.is_remote(uri):
        return {"storage_path": uri}
    return {"storage_path": "/", "storage_filesystem": PyFileSystem(RayFiles(uri))}


class RayFiles(FileSystemHandler):
    """pyarrow file system for a folder on S3, for small files written whole. It has no real folders
    and cannot append."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RayFiles) and other.uri == self.uri

    def _at(self, path: str) -> str:
        return storage.join(self.uri, *path.strip("/").split("/")) if path.strip("/") else self.uri

    def get_type_name(self) -> str:
        return "memlm"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        body = storage.read_bytes(self._at(path)) if path.strip("/") else None
        if body is not None:
            return FileInfo(path, FileType.File, size=len(body))
        return FileInfo(path, FileType.Directory if storage.list_names(self._at(path)) else FileType.NotFound)

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        base = selector.base_dir.rstrip("/")
        found = [self._info(f"{base}/{name}") for name in storage.list_names(self._at(base))]
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        if selector.recursive:
            for info in [info for info in found if info.type == FileType.Directory]:
                found += self.get_file_info_selector(FileSelector(info.path, recursive=True, allow_not_found=True))
        return found

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: a folder exists as soon as a file is in it."""

    def delete_dir(self, path: str) -> None:
        storage.delete(self._at(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        storage.delete(self._at(path))

    def delete_root_dir_contents(self) -> None:
        storage.delete(self.uri)

    def delete_file(self, path: str) -> None:
        storage.delete(self._at(path))

    def copy_file(self, src: str, dest: str) -> None:
        storage.write_bytes(self._at(dest), self._read(src))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def _read(self, path: str) -> bytes:
        body = storage.read_bytes(self._at(path))
        if body is None:
            raise FileNotFoundError(path)
        return body

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(io.BytesIO(self._read(path)), mode="r")

    open_input_file = open_input_stream

    def open_output_stream(self, path: str, metadata: object) -> pa.PythonFile:
        return pa.PythonFile(_Written(self._at(path)), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> pa.PythonFile:
        raise OSError(f"{self._at(path)}: an object on S3 cannot be appended to")


class _Written(io.BytesIO):
    """File that is written to storage as a whole when it is closed."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri

    def close(self) -> None:
        if not self.closed:
            storage.write_bytes(self.uri, self.getvalue())
        super().close()
