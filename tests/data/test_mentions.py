import pytest

from memlm.data.mentions import Phrases, mentions, replace_first, spans


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("He was born in Rome.", "Rome", True),
        ("He was born in ROME", "rome", True),
        ("Romeo was born there", "Rome", False),
        ("It took 12 years", "2", False),
        ("It has 12,000 parts", "12", False),
        ("It is 3.12 m long", "12", False),
        ("It has 7, 12, or more", "12", True),
        ("It has 12.", "12", True),
        ("Her drag family is Davenport, she said", "Davenport.", True),
        ("It is called “Ovide’s   song”", '"Ovide\'s song"', True),
        ("From 1914–18 on", "1914-18", True),
        ("The cafe\u0301 closed", "caf\u00e9", True),
        ("Anything", "", False),
        ("Anything", "?!", False),
        ("C++ is old", "C++", True),
        ("Dr. No came out", "Dr. No", True),
        ("Straße", "STRASSE", True),
    ],
)
def test_whole_words_in_any_case(text: str, phrase: str, found: bool):
    assert mentions(text, phrase) is found
    assert bool(spans(text, phrase)) is found


@pytest.mark.parametrize(
    ("text", "phrase", "places"),
    [
        ("Rome, not Romeo, is Rome.", "rome.", ["Rome", "Rome"]),
        ("It is called “Ovide’s \t song” there", '"Ovide\'s song"', ["“Ovide’s \t song”"]),
        ("A ½ of it", "1⁄2", ["½"]),
        ("The cafe\u0301 closed", "caf\u00e9", ["cafe\u0301"]),
        ("The cafe\u0301 closed", "cafe", []),
        ("Straße", "STRASSE", ["Straße"]),
        ("Anything", " ", []),
    ],
)
def test_a_phrase_is_found_where_it_stands(text: str, phrase: str, places: list[str]):
    assert [text[start:end] for start, end in spans(text, phrase)] == places


@pytest.mark.parametrize(
    ("text", "phrase", "replaced"),
    [
        ("Rome, not Romeo, is Rome.", "Rome", "X, not Romeo, is Rome."),
        ("120 boxes in 2 cellars", "2", "120 boxes in X cellars"),
        ("It costs 1.2 or 2 euros", "2", "It costs 1.2 or X euros"),
        ("They may leave in May.", "May", "They may leave in X."),
        ("It costs 5 $ (five)", "(five)", "It costs 5 $ X"),
        ("Rome", "Lima", "Rome"),
    ],
)
def test_a_phrase_is_replaced_where_it_first_stands_as_it_is_written(text: str, phrase: str, replaced: str):
    assert replace_first(text, phrase, "X") == replaced
    assert replace_first(text, phrase, r"\1") == replaced.replace("X", r"\1")


def test_any_of_many_phrases_is_found_as_whole_words():
    phrases = Phrases(["Rome", "New York", "Ada Byron"])
    assert phrases.in_text("He left new york.") and phrases.in_text("Rome!") and phrases.in_text("by Ada Byron")
    assert not any(phrases.in_text(text) for text in ("", "New Jersey", "Romeo", "Ada met Byron", "York"))
    assert not Phrases([]).in_text("anything")
