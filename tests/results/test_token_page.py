import re

from memlm.results.token_page import PageRow, PageSection, PageToken, write_token_page


def page(tmp_path, *tokens: PageToken, note: str = "note", title: str = "Tokens") -> str:
    section = PageSection(title="a<b/country", note=note, rows=[PageRow(label="question 1", tokens=tokens)])
    write_token_page(tmp_path / "tokens.html", title=title, lead="lead & more", sections=[section])
    return (tmp_path / "tokens.html").read_text(encoding="utf-8")


def shown(source: str) -> list[tuple[str, str, str]]:
    """Share of the colour, numbers on hover, text; of the tokens, not of the legend."""
    return re.findall(r'<span class="token" style="--share:(\d+)%[^"]*" title="([^"]*)">([^<]*)</span>', source)


def test_a_token_is_as_strong_as_its_share_of_the_strongest(tmp_path):
    source = page(
        tmp_path,
        PageToken(text=" Oslo", num_read=60, num_trainable=40),
        PageToken(text=" is", num_read=64, num_trainable=0),
        PageToken(text=" in", num_read=64, num_trainable=10),
    )
    assert shown(source) == [
        ("100", "40 trainable of 60 slots read", " Oslo"),
        ("0", "0 trainable of 64 slots read", " is"),
        ("25", "10 trainable of 64 slots read", " in"),
    ]
    legend = source[source.index('class="legend"') : source.index("<section>")]
    assert re.findall(r">(\d+)</span>", legend) == ["0", "10", "20", "30", "40"]


def test_texts_are_escaped_on_the_page(tmp_path):
    source = page(
        tmp_path,
        PageToken(text="<script>alert('x')</script>", num_read=1, num_trainable=1),
        PageToken(text="a & b\n", num_read=1, num_trainable=0),
        PageToken(text="", num_read=1, num_trainable=0),
        note="<img src=http://a.b>",
        title="</title><b>",
    )
    assert "<script" not in source and "<img" not in source and "<b>" not in source
    assert [text for _, _, text in shown(source)] == [
        "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;",
        "a &amp; b↵",
        "∅",
    ]
    assert "a&lt;b/country" in source and "lead &amp; more" in source


def test_characters_that_hide_or_turn_text_are_shown_by_their_numbers(tmp_path):
    hidden = "\u202e\u2066\u200b\x00\x1b\x7f\u2028\ufeff\ud800\r"
    source = page(tmp_path, PageToken(text=f"a{hidden}b", num_read=1, num_trainable=0), title=hidden, note=hidden)
    assert not set(hidden) & set(source)
    assert shown(source)[0][2] == "a" + "".join(f"⟨U+{ord(each):04X}⟩" for each in hidden) + "b"


def test_the_page_needs_nothing_else_and_reads_on_dark_screens(tmp_path):
    source = page(tmp_path, PageToken(text="x", num_read=1, num_trainable=1))
    assert not re.search(r"(src|href)=|url\(|@import|https?:", source)
    assert "prefers-color-scheme: dark" in source


def test_a_page_on_which_nothing_may_move(tmp_path):
    source = page(tmp_path, PageToken(text="x", num_read=3, num_trainable=0))
    assert shown(source) == [("0", "0 trainable of 3 slots read", "x")]
