import pytest

from memlm.data.documents.augmentation import EXERCISES, augment_by_rules
from memlm.data.documents.chunking import Chunk, sentences_of
from memlm.data.mentions import mentions

TEXT = "Mount Elbo is 5,642 m high. It was climbed by Ann Lee in 1874. Two huts stand on its southern side, and a third was lost."
CHUNK = Chunk(document_id="7", number=2, title="Mount Elbo", text=TEXT)


def test_texts_are_distinct_and_as_many_as_requested():
    texts = augment_by_rules(CHUNK, 64, seed=0)
    assert len(texts) == len(set(texts)) == 64 and TEXT not in texts


def test_texts_depend_on_seed_and_chunk_only():
    texts = augment_by_rules(CHUNK, 20, seed=0)
    assert augment_by_rules(CHUNK, 20, seed=0) == texts
    assert augment_by_rules(CHUNK, 20, seed=1) != texts
    other = Chunk(document_id="8", number=2, title=CHUNK.title, text=CHUNK.text)
    assert augment_by_rules(other, 20, seed=0) != texts


def test_texts_that_do_not_fit_are_left_out_and_the_chunk_itself_always_fits():
    texts = augment_by_rules(CHUNK, 20, seed=0, fits=lambda text: len(text) < 180)
    assert len(texts) == 20 and max(map(len, texts)) < 180
    assert augment_by_rules(CHUNK, 20, seed=0, fits=lambda text: False) == [TEXT]


def test_every_kind_of_exercise_occurs_and_covers_the_whole_chunk():
    texts = augment_by_rules(CHUNK, 64, seed=0)
    for phrase in ("5,642", "Ann Lee", "1874"):
        assert sum(mentions(text, phrase) for text in texts) > 50
    assert any("____" in text for text in texts) and any("\nQ: " in text for text in texts)
    assert any("MOUNT ELBO: " in text for text in texts) and any("first letters" in text for text in texts)
    assert any(text.count("\n") == len(sentences_of(TEXT)) for text in texts)  # notes


def test_a_gap_is_a_whole_word_and_its_answer_is_given():
    cloze = [text for text in augment_by_rules(CHUNK, 64, seed=0) if text.startswith("Fill the gaps")]
    assert cloze
    for text in cloze:
        body, _, answers = text.partition("\nAnswers: ")
        given = answers.rstrip(".").split("; ") if "____" in body else []
        assert body.count("____") == len(given)
        for answer in given:
            body = body.replace("____", answer, 1)
        assert body.endswith(TEXT)


@pytest.mark.parametrize("text", ["Yes.", "1.", "…", "a b", "No stop at the end", "{braces} are {text} too. {title}!"])
def test_a_short_or_odd_chunk_has_fewer_but_some(text: str):
    texts = augment_by_rules(Chunk(document_id="1", number=0, title="", text=text), 64, seed=0)
    assert len(EXERCISES) <= len(texts) <= 64 and len(set(texts)) == len(texts)


def test_a_heading_on_the_first_line_becomes_part_of_the_title():
    chunk = Chunk(document_id="1", number=0, title="Acme", text="The company\nAcme was founded in 1987. It is in Lima.")
    texts = augment_by_rules(chunk, 64, seed=0)
    assert all("the company" in text.lower() for text in texts)
    assert not any(line.rsplit(" A: ", 1)[-1] == "The company" for text in texts for line in text.split("\n"))
    assert not any("Which sentence names The" in text for text in texts)
    listed = Chunk(document_id="1", number=0, title="Acme", text="25 days of holiday\nClosed on Sundays")
    assert any("- 25 days of holiday" in text for text in augment_by_rules(listed, 64, seed=0))
