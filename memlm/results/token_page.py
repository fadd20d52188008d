"""Which tokens carry a fact? A page of texts whose tokens are coloured by how many trainable
slots they read (Lin et al. 2025, Table 1).

One file without scripts or anything to fetch, readable on light and on dark screens. Computes
nothing: reads are handed in.
"""

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PageToken:
    text: str
    num_read: int
    """Slots that the token reads."""
    num_trainable: int
    """Those of them that may move."""


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
    """Colours run from none to the most trainable slots that any token of the page reads."""
    most = max((token.num_trainable for section in sections for row in section.rows for token in row.tokens), default=0)
    head = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<meta name=color-scheme content='light dark'><title>{_text(title)}</title><style>{_STYLE}</style>"
    body = f"<h1>{_text(title)}</h1><p class=lead>{_text(lead)}</p>{_legend(most)}"
    body += "".join(_section(section, most) for section in sections)
    Path(path).write_text(f"{head}<main>{body}</main></html>\n", encoding="utf-8")


def _legend(most: int) -> str:
    steps = sorted({round(most * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    boxes = "".join(f"<span class=token style='{_color(count, most)}'>{count}</span>" for count in steps)
    return f"<p class=legend>Trainable slots read by a token: {boxes} <small>rest the pointer on a token for its numbers</small></p>"


def _section(section: PageSection, most: int) -> str:
    rows = "".join(_row(row, most) for row in section.rows)
    note = f"<p>{_text(section.note)}</p>" if section.note else ""
    return f"<section><h2>{_text(section.title)}</h2>{note}<table>{rows}</table></section>"


def _row(row: PageRow, most: int) -> str:
    tokens = "".join(_token(token, most) for token in row.tokens)
    total = sum(token.num_trainable for token in row.tokens)
    title = f"{total} reads of trainable slots in this text"
    return f"<tr><th title='{title}'>{_text(row.label)}<td>{tokens}"


def _token(token: PageToken, most: int) -> str:
    title = f"{token.num_trainable} trainable of {token.num_read} slots read"
    shown = _text(token.text) or "∅"  # something to point at
    broken = "<br>" if "\n" in token.text else ""
    return f"<span class=token style='{_color(token.num_trainable, most)}' title='{title}'>{shown}</span>{broken}"


def _text(text: str) -> str:
    """Any text as HTML. A line break is shown by its sign, and a character that is invisible or
    turns the direction of writing by its number."""
    return html.escape("".join(_visible(character) for character in text))


def _visible(character: str) -> str:
    if character == "\n":
        return "↵"
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") and character != "\t"
    return f"⟨U+{ord(character):04X}⟩" if hidden else character


def _color(count: int, most: int) -> str:
    """The share of the strongest colour; the style sheet mixes it with the page's own
    background."""
    share = count / most if most else 0.0
    return f"--share:{100 * share:.0f}%" + (";color:var(--on-strong)" if share > 0.7 else "")


_STYLE = """
:root{--page:#fff;--ground:#f4f6f8;--ink:#1d2733;--faint:#5d6a78;--line:#e6eaef;--strong:#1f5fd0;--on-strong:#fff}
@media(prefers-color-scheme:dark){:root{--page:#161b22;--ground:#0d1117;--ink:#e6edf3;--faint:#9aa7b4;--line:#2b333d;
--strong:#7db4ff;--on-strong:#08111d}}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:2rem auto;padding:2rem 3rem;background:var(--page);border-radius:12px;box-shadow:0 1px 6px #0003}
h1{margin:0;font-size:1.8rem}h2{margin:2.2rem 0 0;font-size:1.15rem;overflow-wrap:anywhere}
p{color:var(--faint);margin:.3rem 0 .7rem}
.legend{position:sticky;top:0;padding:.5rem 0;background:var(--page);border-bottom:1px solid var(--line)}
.legend .token{min-width:2rem;text-align:center;margin-right:.25rem}small{margin-left:.6rem}
table{border-collapse:collapse;width:100%}th,td{padding:.35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{width:6.5rem;text-align:left;font-weight:500;font-size:.8rem;line-height:1.9rem;color:var(--faint)}
.token{display:inline-block;white-space:pre;color:var(--ink);font:.9rem/1.55rem ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;
border-radius:4px;margin:1px;padding:0 2px;background:color-mix(in srgb,var(--strong) var(--share),var(--page))}
.token:hover{outline:2px solid var(--ink)}
@media(max-width:700px){main{padding:1rem;margin:0;border-radius:0}th{display:block}td{display:block}}
"""
