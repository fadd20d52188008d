"""Wordings for the facts of the 24 relations of EntityQuestions (Sciavolino et al. 2021), from
relations.toml."""

from dataclasses import dataclass

from memlm.data.word_lists import read_word_lists


@dataclass(frozen=True, kw_only=True)
class Relation:
    """How one relation is asked and stated. {s} stands for the subject, {a} for the answer."""

    asked: str
    """The data set's own question."""
    questions: tuple[str, ...]
    """Other ways to ask."""
    statements: tuple[str, ...]


RELATIONS = {
    name: Relation(
        asked=wordings["asked"], questions=tuple(wordings["questions"]), statements=tuple(wordings["statements"])
    )
    for name, wordings in read_word_lists(__package__, "relations").items()
}
"""By Wikidata's name of the property."""
