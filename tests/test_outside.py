import struct

import pytest
from safetensors import SafetensorError

from memlm.cli import launch
from memlm.outside import reading, visible
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
def test_errors_of_libraries_on_bad_bytes_become_one_line(error, reason):
    with pytest.raises(Refused) as refused, reading(Refused):
        raise error
    assert str(refused.value) == reason and refused.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [StorageError("a", "b", "c", "d"), FileNotFoundError("x"), KeyboardInterrupt(), SystemExit(3)]
)
def test_errors_that_explain_themselves_are_not_wrapped(error):
    with pytest.raises(type(error)) as raised, reading(Refused):
        raise error
    assert raised.value is error


def test_terminal_control_characters_are_shown_by_number():
    assert visible("é 日\u00a0x\n\t") == "é 日\u00a0x\n\t"
    assert visible("\x1b[2J\u202egnp\r\ud800\x00") == "<U+001B>[2J<U+202E>gnp<U+000D><U+D800><U+0000>"


def test_an_error_that_quotes_a_file_sends_no_control_characters(capsys):
    def job():
        raise ValueError("'\x1b]0;title\x07\u202e' is no answer")

    with pytest.raises(SystemExit):
        launch(job)
    assert capsys.readouterr().err == "error: '<U+001B>]0;title<U+0007><U+202E>' is no answer\n"
