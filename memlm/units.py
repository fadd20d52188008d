"""Sizes and counts in messages. Sizes are decimal: 1 GB = 1e9 bytes, as in `memlm plan`."""

_SIZES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNTS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def format_size(num_bytes: float) -> str:
    """Size with three digits: 1.57 GB."""
    for size, unit in _SIZES:
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def format_count(number: float) -> str:
    """Count with a word: 4 trillion."""
    for size, word in _COUNTS:
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:.0f}"
