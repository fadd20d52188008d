import struct

import pytest
from safetensors import SafetensorError

from memlm.outside import reading
from memlm.storage import StorageError


class Refused(ValueError):
    pass


@pytest.mark.parametrize(
    "error, reason",
    [
        (KeyError("checkpoint"), "it has no 'checkpoint'"),
        (MemoryError(), "it needs more memory than there is"),
        (RecursionError("maximum recursion depth"), "it is nested too deeply"),
        (SafetensorError("invalid header\n  at byte 8."), "SafetensorError: invalid header at byte 8"),
        (struct.error("unpack requires a buffer"), "error: unpack requires a buffer"),
        (TypeError("not a mapping"), "TypeError: not a mapping"),
        (type("PanicException", (BaseException,), {})("called unwrap"), "PanicException: called unwrap"),
    ],
)
def test_what_libraries_raise_on_bad_bytes_becomes_one_line(error, reason):
    with pytest.raises(Refused) as refused, reading(Refused):
        raise error
    assert str(refused.value) == reason and refused.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [StorageError("a", "b", "c", "d"), FileNotFoundError("x"), KeyboardInterrupt(), SystemExit(3)]
)
def test_what_says_itself_what_is_wrong_stays_what_it_is(error):
    with pytest.raises(type(error)) as raised, reading(Refused):
        raise error
    assert raised.value is error
