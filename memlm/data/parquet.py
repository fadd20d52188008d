"""Read Parquet files in bounded memory: one column of text for a corpus, or whole records for
questions.

Text is read as dictionaries, in which a repeated value is held once, so that a page of a few bytes
cannot fill the memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memlm.data.compression import MAX_HELD_FROM_BYTES, max_bytes, require_file, require_no_bomb
from memlm.data.file_kinds import ShardError
from memlm.data.parquet_footer import count_values
from memlm.outside import reading, reason_of

BATCH_ROWS = 256
BYTES_OF_AN_ELEMENT = 8
"""Minimum size of an element in Arrow."""
BYTES_OF_A_VALUE = 32
"""Size of a number, or of the reference to a text, in Python."""


class NoSuchColumn(KeyError):
    """The file has no such column. Its columns are the error's args."""


def column_values(path: str, name: str, column: str) -> Iterator[Any]:
    """The values of one column without structs or lists, row by row; text as bytes, which may not
    be UTF-8, whatever the schema says.

    Raises ShardError, or NoSuchColumn with the existing columns.
    """
    with _opened(path, name) as place, _open(path) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise NoSuchColumn(*schema.names)
        if pa.types.is_nested(schema.field(column).type):
            raise ShardError(
                f"{name}: field {column!r} holds {schema.field(column).type}, not text. Name another text field, or store the text in a separate column."
            )
        _require_no_bomb_by_pages(file, name, max_bytes(path))
    with _opened(path, name) as place, _open(path, dictionaries=[column]) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[column]):
            for value in _bytes_of(batch.column(0)):
                place.row += 1
                yield value


def rows(path: str, name: str) -> Iterator[dict[str, Any]]:
    """All records, for callers that hold them in memory. Raises ShardError."""
    limit, read = max_bytes(path, at_least=MAX_HELD_FROM_BYTES), 0
    with _opened(path, name) as place, _open(path) as file:
        columns = [file.metadata.schema.column(index) for index in range(file.metadata.num_columns)]
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        _require_no_bomb_by_pages(file, name, limit)
        if any(
            column.max_repetition_level for column in columns
        ):  # a page may also repeat an element of a list at no cost
            require_no_bomb(name, 1, BYTES_OF_AN_ELEMENT * count_values(Path(path)), limit)
    with _opened(path, name) as place, _open(path, dictionaries=texts) as file:
        narrow = {field.name: field.type for field in file.schema_arrow if field.type in (pa.float16(), pa.float32())}
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            read += sum(map(_decoded_bytes, batch.columns))
            require_no_bomb(name, place.row + 1, read, limit)
            for values in batch.to_pylist():
                place.row += 1
                yield values | {column: _as_written(values[column], kind) for column, kind in narrow.items()}


def _as_written(value: float | None, kind: pa.DataType) -> float | None:
    """A 32- or 16-bit number with the fewest digits that identify it: 3.14 instead of
    3.140000104904175."""
    return None if value is None else float(str(kind.to_pandas_dtype()(value)))


class _Place:
    """Position in a file that is being read."""

    row = 0


@contextmanager
def _opened(path: str, name: str) -> Iterator[_Place]:
    """Turn Arrow's errors into ShardErrors that name the row after the last one read."""
    require_file(Path(path), name)
    place = _Place()

    def refuse(reason: str) -> ShardError:
        return ShardError(f"{name}:{place.row + 1}: not a readable Parquet file ({reason}). Write the file again.")

    with reading(refuse):
        try:
            yield place
        except pa.ArrowNotImplementedError as error:
            raise ShardError(
                f"{name}: holds unsupported data ({reason_of(error)}). Write it again with plain columns."
            ) from error
        except PermissionError as error:
            raise ShardError(f"{name}: cannot be opened ({error.strerror}). Allow this user to read it.") from error
        except (pa.ArrowException, OSError) as error:
            raise ShardError(
                f"{name}:{place.row + 1}: not Parquet, truncated or damaged ({reason_of(error)}). Download or write the file again."
            ) from error


def _open(path: str, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    return pq.ParquetFile(path, read_dictionary=list(dictionaries))


def _require_no_bomb_by_pages(file: pq.ParquetFile, name: str, limit: float) -> None:
    """Check the page sizes that the file declares. Sums over all columns, because asking for a
    single one aborts the process if its statistics are damaged."""
    groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
    require_no_bomb(name, 1, sum(max(group.total_byte_size, 4 * group.num_rows) for group in groups), limit)


def _decoded_bytes(column: pa.Array) -> int:
    """Minimum size of the values in Python, with repeated values counted each time."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        sizes = pc.binary_length(column.dictionary) if _is_text(column.dictionary.type) else None
        held = pc.sum(sizes.take(column.indices)).as_py() if sizes is not None else 0
        return (held or 0) + BYTES_OF_A_VALUE * len(column)
    if pa.types.is_struct(kind):
        return BYTES_OF_A_VALUE * len(column) + sum(map(_decoded_bytes, column.flatten()))
    if pa.types.is_nested(kind):
        inner = column.flatten() if hasattr(column, "flatten") else column.values
        return BYTES_OF_A_VALUE * len(column) + _decoded_bytes(inner)
    return BYTES_OF_A_VALUE * len(column) + ((pc.sum(pc.binary_length(column)).as_py() or 0) if _is_text(kind) else 0)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _bytes_of(column: pa.Array) -> Iterator[Any]:
    if pa.types.is_dictionary(column.type):
        words = column.dictionary
        if pa.types.is_string(words.type):
            words = words.view(pa.binary())
        for index in column.indices.to_pylist():
            yield None if index is None else words[index].as_py()
    else:
        yield from column.to_pylist()
