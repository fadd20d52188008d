from pathlib import Path

import pytest

from memlm.data.documents.headings import sections_of
from memlm.data.documents.text_files import TextFileError, is_text_source, read_text_files, text_content

HANDBOOK = """---
author: nobody
---
# Acme handbook

## The company
Acme was **founded** in 1987 by [Ada Bell](http://acme.example/ada). Its *head office* is in `Lima`.<!-- check -->

Holidays
--------
- There are 25 days of holiday.
- [x] 2) Closed on __Sundays__; snake_case and 2*3*4 stay.

| Office | City |
|:---|---|
| Head | **Lima** |
| | Cusco |

---
> It was said.
```
# no heading
```
"""


def text_of(path: Path) -> str:
    ((_, text),) = read_text_files(str(path))
    return text


def test_markdown_is_read_without_its_marks(tmp_path: Path):
    (tmp_path / "handbook.md").write_text(HANDBOOK)
    company, holidays = sections_of(text_of(tmp_path / "handbook.md"))
    assert company.headings == ("Acme handbook", "The company")
    assert company.text.strip() == "Acme was founded in 1987 by Ada Bell. Its head office is in Lima."
    assert holidays.headings == ("Acme handbook", "Holidays")
    assert [line for line in holidays.text.split("\n") if line] == [
        "There are 25 days of holiday.",
        "2) Closed on Sundays; snake_case and 2*3*4 stay.",
        "Office: Head, City: Lima",
        "City: Cusco",
        "It was said.",
        "    # no heading",
    ]


def test_a_short_isolated_line_of_plain_text_is_a_heading(tmp_path: Path):
    text = "THE COMPANY\r\n\r\nAcme was founded in 1987.\n\nHolidays\n\nThere are 25 days,\nof which\n\nThe end."
    (tmp_path / "a.txt").write_text(text)
    assert [section.headings for section in sections_of(text_of(tmp_path / "a.txt"))] == [
        ("THE COMPANY",),
        ("Holidays",),
    ]
    (tmp_path / "a.txt").write_text("Acme\nwas founded in 1987.\n\n25 days\n\nThe end")
    assert [section.headings for section in sections_of(text_of(tmp_path / "a.txt"))] == [()]


def test_a_folder_holds_one_document_per_file(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.md", "deep/a.TXT", ".hidden.md", ".git/x.md", "c.pdf"):
        (tmp_path / name).write_text(f"Text of {name}.")
    assert is_text_source(str(tmp_path)) and is_text_source("x.MD") and not is_text_source("x.jsonl")
    assert [name for name, _ in read_text_files(str(tmp_path))] == ["b.md", "deep/a.TXT"]
    before = text_content(str(tmp_path))
    (tmp_path / "deep/a.TXT").write_text("Another text.")
    assert text_content(str(tmp_path)) != before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "a.md is not UTF-8"), (b"a\0b", "a.md contains a NUL"), (None, "does not exist")],
)
def test_a_file_that_is_not_text_is_refused_in_one_line(tmp_path: Path, content, message):
    if content is not None:
        (tmp_path / "a.md").write_bytes(content)
    with pytest.raises(TextFileError, match=message) as refused:
        list(read_text_files(str(tmp_path / "a.md")))
    assert "\n" not in str(refused.value)


def test_a_folder_without_texts_is_refused(tmp_path: Path):
    with pytest.raises(TextFileError, match="the folder holds no .md"):
        list(read_text_files(str(tmp_path)))


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# Title\nText.")
    assert sections_of(text_of(tmp_path / "a.md"))[0].headings == ("Title",)


def test_linked_folders_are_read_and_other_files_are_reported(tmp_path: Path):
    for name in ("docs/a.md", "docs/.git/b.md", "docs/plan.docx", "shared/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("Text.")
    (tmp_path / "docs/shared").symlink_to("../shared")
    (tmp_path / "shared/back").symlink_to("../docs")
    messages: list[str] = []
    assert [name for name, _ in read_text_files(str(tmp_path / "docs"), report=messages.append)] == [
        "a.md",
        "shared/c.txt",
    ]
    assert [message.partition("left out ")[2] for message in messages] == [
        "1 (a link to something listed under another name): 'shared/back/'",
        "1 (hidden, or a system folder): '.git/'",
        "1 (not a supported kind of file): 'plan.docx'",
    ]


@pytest.mark.parametrize(
    "line", ["-" * 100_000 + "x", "*a " * 3000, "`a " * 3000, "[" * 5000, "[a](" * 2000, "<!--" * 50_000]
)
def test_unclosed_marks_are_text_and_parsed_quickly(tmp_path: Path, line: str):
    """Each of them used to be followed from every mark to the end of the line, which took hours for
    a megabyte."""
    (tmp_path / "a.md").write_text(line)
    assert text_of(tmp_path / "a.md") == line


def test_an_isolated_numbered_line_is_a_heading_and_lines_in_a_row_are_kept(tmp_path: Path):
    (tmp_path / "a.txt").write_text(
        "Acme\n\nFounder Ada Bell\n\n2.1 Holidays\n\nStaff get 27 days.\n\nHead office Lima\n\n27 robots"
    )
    first, second, third = sections_of(text_of(tmp_path / "a.txt"))
    assert (first.headings, first.text.split("\n")[1]) == (("Acme",), "Founder Ada Bell")
    assert (second.headings, second.text.strip()) == (("2.1 Holidays",), "Staff get 27 days.")
    assert (third.headings, third.text.strip()) == (("Head office Lima",), "27 robots")
