"""The rows of a Parquet file are read in bounded memory: one column of text for a corpus, or
whole records for questions.

Text is read as dictionaries, in which a value that repeats is held once: a page of a few bytes
cannot fill the memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from memlm.data.compression import MAX_HELD_FROM_BYTES, most_bytes, require_file, require_no_bomb
from memlm.data.file_kinds import ShardError
from memlm.data.parquet_footer import count_values
from memlm.outside import reading, reason_of

BATCH_ROWS = 256
BYTES_OF_AN_ELEMENT = 8
"""As Arrow holds it, at least."""
BYTES_OF_A_VALUE = 32
"""What a number, or the reference to a text, takes in Python."""


class NoSuchColumn(KeyError):
    """The file has other columns, which are its args."""


def column_values(path: str, name: str, column: str) -> Iterator[Any]:
    """The values of one column that holds no structs or lists, row by row; text as bytes, which
    may not be UTF-8 whatever the schema says.

    Raises ShardError; NoSuchColumn, with the columns that there are.
    """
    with _opened(path, name) as place, _open(path) as file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise NoSuchColumn(*schema.names)
        if pa.types.is_nested(schema.field(column).type):
            raise ShardError(
                f"{name}: field {column!r} holds {schema.field(column).type}, not text. Name another text field, or write the text as a column of its own."
            )
        _require_no_bomb_by_pages(file, name, most_bytes(path))
    with _opened(path, name) as place, _open(path, dictionaries=[column]) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[column]):
            for value in _bytes_of(batch.column(0)):
                place.row += 1
                yield value


def rows(path: str, name: str) -> Iterator[dict[str, Any]]:
    """All records, to be held in memory together. Raises ShardError."""
    most, read = most_bytes(path, least=MAX_HELD_FROM_BYTES), 0
    with _opened(path, name) as place, _open(path) as file:
        columns = [file.metadata.schema.column(index) for index in range(file.metadata.num_columns)]
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        _require_no_bomb_by_pages(file, name, most)
        if any(
            column.max_repetition_level for column in columns
        ):  # a page may repeat an element of a list for nothing, too
            require_no_bomb(name, 1, BYTES_OF_AN_ELEMENT * count_values(Path(path)), most)
    with _opened(path, name) as place, _open(path, dictionaries=texts) as file:
        narrow = {field.name: field.type for field in file.schema_arrow if field.type in (pa.float16(), pa.float32())}
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            read += sum(map(_decoded_bytes, batch.columns))
            require_no_bomb(name, place.row + 1, read, most)
            for values in batch.to_pylist():
                place.row += 1
                yield values | {column: _as_written(values[column], kind) for column, kind in narrow.items()}


def _as_written(value: float | None, kind: pa.DataType) -> float | None:
    """A number of 32 or 16 bits by the fewest digits that name it: 3.14, and not
    3.140000104904175."""
    return None if value is None else float(str(kind.to_pandas_dtype()(value)))


class _Place:
    """How far a file was read."""

    row = 0


@contextmanager
def _opened(path: str, name: str) -> Iterator[_Place]:
    """Errors of Arrow as ShardErrors that name the row after the last one read."""
    require_file(Path(path), name)
    place = _Place()

    def refuse(reason: str) -> ShardError:
        return ShardError(f"{name}:{place.row + 1}: not Parquet that can be read ({reason}). Write the file again.")

    with reading(refuse):
        try:
            yield place
        except pa.ArrowNotImplementedError as error:
            raise ShardError(
                f"{name}: holds what cannot be read here ({reason_of(error)}). Write it again with plain columns."
            ) from error
        except PermissionError as error:
            raise ShardError(f"{name}: cannot be opened ({error.strerror}). Allow this user to read it.") from error
        except (pa.ArrowException, OSError) as error:
            raise ShardError(
                f"{name}:{place.row + 1}: not Parquet, cut off or damaged ({reason_of(error)}). Fetch or write the file again."
            ) from error


def _open(path: str, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    return pq.ParquetFile(path, read_dictionary=list(dictionaries))


def _require_no_bomb_by_pages(file: pq.ParquetFile, name: str, most: float) -> None:
    """By what the file says of its pages: of all its columns, since asking for one aborts the
    process where its statistics are damaged."""
    groups = (file.metadata.row_group(group) for group in range(file.num_row_groups))
    require_no_bomb(name, 1, sum(max(group.total_byte_size, 4 * group.num_rows) for group in groups), most)


def _decoded_bytes(column: pa.Array) -> int:
    """What the values take in Python at least, each as often as it stands there."""
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
