"""Read from a Parquet file's footer how many values its columns hold. This is done without
pyarrow, which aborts the process if the statistics of a column are damaged.

A footer is a struct in Thrift's compact protocol. Sources:
https://github.com/apache/parquet-format (parquet.thrift) and https://github.com/apache/thrift
(doc/specs/thrift-compact-protocol.md).
"""

from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
ROW_GROUPS, COLUMNS, COLUMN_METADATA, NUM_VALUES = 4, 1, 3, 5
"""Field numbers in FileMetaData, RowGroup, ColumnChunk and ColumnMetaData."""
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


def count_values(path: Path) -> int:
    """The number of values in all columns, counting each element of a list. Raises ValueError or
    IndexError if the footer is invalid."""
    with path.open("rb") as file:
        file.seek(-8, 2)
        size, magic = int.from_bytes(file.read(4), "little"), file.read(4)
        if magic != MAGIC:
            raise ValueError("the file does not end in PAR1")
        file.seek(-8 - size, 2)
        footer = _Compact(file.read(size)).struct()
    columns = [column[COLUMN_METADATA] for group in footer[ROW_GROUPS] for column in group[COLUMNS]]
    return sum(column[NUM_VALUES] for column in columns)


class _Compact:
    """A reader of one message. Lists become lists, and structs dicts by field number."""

    def __init__(self, message: bytes) -> None:
        self.message, self.place = message, 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            kind = header & 0x0F
            number = number + (header >> 4) if header >> 4 else self._signed()
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self._signed()
        if kind in (TRUE, FALSE, BYTE):  # in a list, truth values are bytes
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self._unsigned())
        if kind in (LIST, SET):
            header = self._byte()
            size = header >> 4 if header >> 4 < 15 else self._unsigned()
            return [self._value(header & 0x0F) for _ in range(size)]
        if kind == MAP:
            size = self._unsigned()
            kinds = self._byte() if size else 0
            return [(self._value(kinds >> 4), self._value(kinds & 0x0F)) for _ in range(size)]
        if kind == STRUCT:
            return self.struct()
        raise ValueError(f"{kind} is not a type of Thrift's compact protocol")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _byte(self) -> int:
        self.place += 1
        return self.message[self.place - 1]

    def _bytes(self, size: int) -> bytes:
        if size > len(self.message) - self.place:
            raise ValueError("a text extends beyond the end of the message")
        self.place += size
        return self.message[self.place - size : self.place]
