"""The tokens that carry a fact: a page of texts whose tokens are coloured by how many trainable
slots they read (Lin et al. 2025, Table 1).

One file without scripts or anything to fetch, readable on light and on dark screens. Computes
nothing: reads are handed in.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memlm.results.pages import write_page


@dataclass(frozen=True, kw_only=True)
class PageToken:
    text: str
    num_read: int
    """Slots that the token reads."""
    num_trainable: int
    """The number of these slots that may move."""


@dataclass(frozen=True, kw_only=True)
class PageRow:
    label: str
    tokens: Sequence[PageToken]


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """One fact."""

    title: str
    note: str
    rows: Sequence[PageRow]


def write_token_page(path: str | Path, *, title: str, lead: str, sections: Sequence[PageSection]) -> None:
    """Write the page. Its colours run from none to the most trainable slots that any token of the
    page reads."""
    most = max((token.num_trainable for section in sections for row in section.rows for token in row.tokens), default=0)
    steps = sorted({round(most * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    write_page(path, "token_page", shown=_shown, title=title, lead=lead, sections=sections, most=most, steps=steps)


def _shown(text: str) -> str:
    """Text in which a line break is shown by its sign, and a character that is invisible or turns
    the direction of writing by its number."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character == "\n":
        return "↵"
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") and character != "\t"
    return f"⟨U+{ord(character):04X}⟩" if hidden else character
