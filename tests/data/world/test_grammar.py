import re

import pytest

from memlm.data.world.grammar import OTHER, mark_words
from memlm.data.world.world import World, WorldConfig

WORLD = World(WorldConfig())


def marked(text, entity, value):
    return [
        (text[word.start : word.end], word.part, word.part_of_speech)
        for word in mark_words(text, entity=entity, value=value)
    ]


def test_a_statement_by_hand():
    assert marked("Ana Brol's river is the Kost.", "Ana Brol", "the Kost") == [
        ("Ana", "entity", "proper noun"),
        ("Brol", "entity", "proper noun"),
        ("'s", "template", "possessive"),
        ("river", "template", "noun"),
        ("is", "template", "verb"),
        ("the", "value", "determiner"),
        ("Kost", "value", "proper noun"),
        (".", "stop", "punctuation"),
    ]


def test_a_question_by_hand():
    assert marked("Question: As for 12, what is the age?\nAnswer: 12", "12", "12")[-6:] == [
        ("age", "template", "noun"),
        ("?", "stop", "punctuation"),
        ("\n", "stop", "punctuation"),
        ("Answer", "template", "noun"),
        (":", "template", "punctuation"),
        ("12", "value", "number"),
    ]


@pytest.mark.parametrize(("value", "speech"), [("baker", "noun"), ("42", "number"), ("Breal Company", "proper noun")])
def test_the_part_of_speech_of_a_value(value, speech):
    found = marked(f"{value} is the age of Ana.", "Ana", value)
    assert {speech} == {each for _, part, each in found if part == "value"}


def test_every_word_of_every_wording_has_a_part_of_speech():
    for wordings in WORLD.wordings.values():
        for wording in (*wordings.statements, *wordings.questions, *wordings.evaluation):
            text = wording.format(entity="ENTITY", value="VALUE")
            found = mark_words(text, entity="ENTITY", value="VALUE")
            assert OTHER not in {word.part_of_speech for word in found}, text
            assert re.sub(r"\s", "", text) == "".join(text[word.start : word.end] for word in found)


def test_name_and_value_are_found_in_every_statement():
    for entity in WORLD.known[:60]:
        for attribute, value in entity.values.items():
            for text in WORLD.statements(entity, attribute):
                found = mark_words(text, entity=entity.name, value=value)
                for part, phrase in (("entity", entity.name), ("value", value)):
                    words = [word for word in found if word.part == part]
                    assert text[words[0].start : words[-1].end] == phrase
