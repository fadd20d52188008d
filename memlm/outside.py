"""Bytes that somebody else may have written: a file of questions, a patch from a colleague, a
ledger that was edited by hand.

Whatever a library raises on them (RecursionError, SafetensorError, KeyError, MemoryError,
struct.error and so on) becomes one error of one line, so that bad input is never a traceback.
"""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def reading(refuse: Callable[[str], Exception]) -> Iterator[None]:
    """Raise `refuse(reason)`, with the reason on one line, for any error in the block but
    memlm's own, the system's (OSError) and Ctrl-C."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) or _is_own(error) or not (isinstance(error, Exception) or _is_panic(error)):
            raise
        raise refuse(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """What an error says, on one line. Libraries in C++ and Rust give several."""
    text = " ".join(str(error).split()).rstrip(".")
    if "trust_remote_code" in text:  # transformers advises to pass it, which nobody can here
        return "it needs code of its own, and memlm runs none"
    if isinstance(error, KeyError):
        return f"it has no {text}"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def visible(text: str) -> str:
    """A text as a terminal may print it: what would move its cursor, turn the direction of
    writing or be no Unicode is shown by its number."""
    if text.isprintable():
        return text
    return "".join(f"<U+{ord(each):04X}>" if _steers(each) else each for each in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t\u200c\u200d"


def _is_own(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "memlm"


def _is_panic(error: BaseException) -> bool:
    """Whether Rust code gave up, which pyo3 raises as a BaseException of a class that it does
    not export."""
    return type(error).__name__ == "PanicException"
