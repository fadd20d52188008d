import pytest

from memlm.data.documents.chunking import Chunk
from memlm.data.documents.sentence_wordings import augment_by_sentences, questions_in
from memlm.data.mentions import mentions

TEXT = "The inn has 40 beds. Rooms are let by Ann Lee from May on. Breakfast is served in the old barn."
CHUNK = Chunk(document_id="7", number=2, title="House rules: Guests: The inn", text=TEXT)


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        ("The inn has 40 beds.", ("The inn has how many beds?", "40 beds")),
        ("Guests leave within two days.", ("Guests leave within how many days?", "two days")),
        ("It opens at six in the morning.", ("It opens at what in the morning?", "six")),
        ("Fees are due on the 3rd of each month.", ("Fees are due on the what of each month?", "3rd")),
        ("Rooms are let by Ann Lee from May on.", ("Rooms are let by who from May on?", "Ann Lee")),
        ("Rooms are let by Ann Lee from May on.", ("Rooms are let by Ann Lee from what on?", "May")),
        ("Guests may sail in May.", ("Guests may sail in what?", "May")),
        ("The 120 boats have 2 cabins.", ("The 120 boats have how many cabins?", "2 cabins")),
        ("Breakfast is served in the old barn.", ("Breakfast is served in what?", "the old barn")),
        ("Dogs wait at the gate and bark.", ("Dogs wait at what and bark?", "the gate")),
    ],
)
def test_a_part_is_asked_for_where_it_stands(sentence, asked):
    assert asked in questions_in(sentence)


def test_a_sentence_without_an_amount_a_name_or_a_noun_phrase_is_not_asked_about():
    assert questions_in("Dogs bark.") == [] and questions_in("") == []


def test_each_text_is_one_sentence_or_one_question_about_it():
    texts = augment_by_sentences(CHUNK, 24)
    assert len(texts) == len(set(texts)) == 24
    for text in texts:
        question, _, answer = text.partition("\nAnswer: ")
        assert (
            sum(mentions(text, part) for part in ("40 beds", "let by", "Breakfast")) == 1
        ) or "how many beds" in text
        if answer:
            assert question.startswith("Question: ") and question.endswith("?") and mentions(TEXT, answer)
            assert not mentions(question, answer)


def test_sentences_take_turns_and_are_first_said_as_they_are():
    assert augment_by_sentences(CHUNK, 3) == [
        "The inn has 40 beds.",
        "Rooms are let by Ann Lee from May on.",
        "Breakfast is served in the old barn.",
    ]
    later = augment_by_sentences(CHUNK, 60)
    assert "House rules: The inn has 40 beds." in later and "The inn: The inn has 40 beds." in later


def test_written_questions_come_before_those_of_the_rules():
    written = {"The inn has 40 beds.": [("How big is the inn?", "40 beds")]}
    texts = augment_by_sentences(CHUNK, 60, written=written)
    first, second = (
        texts.index(f"Question: {asked}?\nAnswer: 40 beds")
        for asked in ("How big is the inn", "The inn has how many beds")
    )
    assert first < second


def test_texts_that_do_not_fit_are_left_out_and_the_chunk_itself_always_fits():
    assert max(map(len, augment_by_sentences(CHUNK, 60, fits=lambda text: len(text) < 60))) < 60
    assert augment_by_sentences(CHUNK, 60, fits=lambda text: False) == [TEXT]


@pytest.mark.parametrize("text", ["Yes.", "1.", "…", "No stop at the end", "{braces} are {text} too. {title}!"])
def test_a_short_or_odd_chunk_has_texts_too(text):
    texts = augment_by_sentences(Chunk(document_id="1", number=0, title="", text=text), 64)
    assert texts and len(set(texts)) == len(texts)
