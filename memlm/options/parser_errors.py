"""Errors of the command-line parser, each on one line: tyro prints a box of many lines."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

WIDE = "100000"
"""Columns wide enough for any message of tyro's without a line break."""
_BORDER = re.compile(r"^[╭╰│─\s]+|[╮╯│─\s]+$")
_WHERE = re.compile(r"^Error parsing [\w.-]+: ")
_HELP = re.compile(r" Argument helptext: (--\S+).*")
_SUGGESTED = re.compile(r"Perhaps you meant:|Arguments similar to [^:\n]+:")
_OPTION = re.compile(r"--[\w.-]+")


@contextmanager
def errors_on_one_line(raised: Callable[[str], Exception]) -> Iterator[None]:
    """Raise `raised(message)`, with a message of one line, when tyro.cli in the block exits with an
    error. Its help on stdout stays unchanged."""
    said, columns = io.StringIO(), os.environ.get("COLUMNS")
    if not {"-h", "--help", "--help-all"} & set(sys.argv):
        os.environ["COLUMNS"] = WIDE
    try:
        with redirect_stderr(said):
            yield
    except SystemExit as end:
        if end.code:
            raise raised(one_line(said.getvalue())) from None
        raise
    finally:
        os.environ.pop("COLUMNS", None)
        if columns is not None:
            os.environ["COLUMNS"] = columns


def one_line(box: str) -> str:
    """Message in tyro's box, with the options that it suggests and the way to list all options."""
    lines = [_BORDER.sub("", line) for line in box.splitlines()]
    lines = [line for line in lines if line and not line.startswith("For full helptext")]
    head, *suggested = _SUGGESTED.split("\n".join(lines[1:] if len(lines) > 1 else lines))
    message = _HELP.sub(r" (\1)", _WHERE.sub("", " ".join(head.split()))).rstrip(".")
    options = [line for part in suggested for line in part.splitlines() if line.startswith("--")]
    names = dict.fromkeys(_OPTION.findall(" ".join(line.split()[0] for line in options)))
    perhaps = f"; perhaps you meant {' or '.join(names)}" if names else ""
    return f"{message}{perhaps} (--help-all lists all options)"
