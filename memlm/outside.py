"""Reading of data from outside: a file of questions, a patch from a colleague, a ledger edited by
hand.

Any exception that a library raises on bad data (RecursionError, SafetensorError, KeyError,
MemoryError, struct.error and so on) becomes an error of one line, never a traceback.
"""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def reading(refuse: Callable[[str], Exception]) -> Iterator[None]:
    """Raise `refuse(reason)`, with the reason on one line, for any error in the block except
    memlm's own errors, OSError and Ctrl-C."""
    try:
        yield
    except BaseException as error:
        if (
            isinstance(error, OSError)
            or _is_memlm_error(error)
            or not (isinstance(error, Exception) or _is_panic(error))
        ):
            raise
        raise refuse(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """Message of an error, on one line: libraries in C++ and Rust give several lines."""
    text = " ".join(str(error).split()).rstrip(".")
    if "trust_remote_code" in text:  # transformers advises to set it, which memlm does not allow
        return "it needs to run its own code, which memlm never does"
    if isinstance(error, KeyError):
        return f"it has no {text}"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def visible(text: str) -> str:
    """Text that is safe to print on a terminal: characters that would move the cursor or change the
    writing direction, and invalid ones, are shown by their numbers."""
    if text.isprintable():
        return text
    return "".join(f"<U+{ord(each):04X}>" if _is_control_character(each) else each for each in text)


def _is_control_character(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t\u200c\u200d"


def _is_memlm_error(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "memlm"


def _is_panic(error: BaseException) -> bool:
    """Whether Rust code panicked: pyo3 raises a BaseException of a class that it does not
    export."""
    return type(error).__name__ == "PanicException"
