import os
from pathlib import Path

import pytest

from memlm.data.documents.headings import Section, sections_of


def test_each_section_has_its_headings():
    text = "Before.\n# One\nA.\n## Two ##\nB.\n### Three\nC.\n## Four\nD.\n# Five\nE."
    assert [(section.headings, section.text) for section in sections_of(text)] == [
        ((), "Before."),
        (("One",), "A."),
        (("One", "Two"), "B."),
        (("One", "Two", "Three"), "C."),
        (("One", "Four"), "D."),
        (("Five",), "E."),
    ]


def test_an_underlined_line_is_a_heading():
    assert sections_of("The company\n===========\nA.\n\nHolidays\n---\nB.") == [
        Section(("The company",), "A.\n"),
        Section(("The company", "Holidays"), "B."),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "No heading at all.",
        "#hashtag is a word",
        "    # a comment in code",
        "```\n# a comment in a fence\n```",
        "- an item\n---\nafter a rule",
        "",
        " \n",
        "# Nothing but a heading",
    ],
)
def test_a_text_without_headings_is_one_section(text):
    assert sections_of(text) == [Section((), text)]


@pytest.mark.parametrize(
    "line, heading",
    [
        ("# Pay", "Pay"),
        ("## Pay ##", "Pay"),
        ("# Pay  #\t", "Pay"),
        ("# The language C#", "The language C#"),
        ("# #", "#"),
    ],
)
def test_closing_marks_are_not_part_of_a_heading(line: str, heading: str):
    assert sections_of(f"{line}\nText.") == [Section((heading,), "Text.")]


@pytest.mark.parametrize("mark", [" ", "#", " #"])
def test_a_long_line_of_marks_is_parsed_quickly(mark: str):
    (section,) = sections_of(f"# a{mark * 300_000}x\nText.")
    assert section.headings[0].startswith("a") and section.headings[0].endswith("x")


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="needs SimpleQA's documents: set MEMLM_DATA")
def test_real_documents_without_markdown_are_one_section():
    from memlm.data.documents.documents import read_titled_documents

    documents, _ = read_titled_documents(str(Path(os.environ["MEMLM_DATA"]) / "qa" / "simpleqa_wiki_docs.jsonl.zst"))
    assert all(sections_of(document.text) == [Section((), document.text)] for document in documents)
