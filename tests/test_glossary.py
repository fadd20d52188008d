"""The glossary explains each word of the README and the messages once."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
ROWS = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)[1:]
WORDS = [word for names, _ in ROWS for word in re.split(r", ", names)]


def test_each_word_is_explained_once():
    assert len(WORDS) == len(set(WORDS)) and all(meaning.endswith(".") for _, meaning in ROWS)


def test_necessary_words_are_explained():
    for word in (
        *(
            "slot",
            "t",
            "rate",
            "pass",
            "stream",
            "background text",
            "document frequency",
            "dense twin",
            "nats per token",
        ),
        *(
            "matched learning",
            "frontier",
            "patch",
            "held-out set",
            "recipe",
            "chunk",
            "augmentation",
            "backward transfer",
        ),
    ):
        assert word in WORDS
