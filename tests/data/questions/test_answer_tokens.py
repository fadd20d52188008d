from dataclasses import replace

import pytest
import torch

from memlm.data.config import DocumentStreamConfig, StreamConfig
from memlm.data.encoding import encode
from memlm.data.questions import answer_tokens
from memlm.data.questions.answer_tokens import answers_of, silent_statements, states_answer
from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.data.questions.streams import batches_of_stream, learns_values_only
from memlm.data.tokenizer import train_tokenizer

ASKED = (
    Question(id="f#0", question="Where?", answers=("Port Ada", "Ada")),
    Question(id="f#1", question="Where is it?", answers=("Port Ada",)),
)
FACT = Fact(
    id="f",
    statements=("It lies in Port Ada, they say.", "Port Ada has it: Port Ada!", "Nobody knows."),
    questions=ASKED,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for text in FACT.statements for _ in range(5)], vocab_size=290)


def learned_texts(tokenizer, stream: StreamConfig, fact: Fact = FACT) -> dict[str, str]:
    """What is predicted of each statement."""
    (batch,) = batches_of_stream(stream, [fact], tokenizer, seed=0)
    rows = zip(batch.tokens, batch.is_token, batch.is_target, strict=True)
    return {
        tokenizer.decode(row[kept], skip_special_tokens=True): tokenizer.decode(row[target])
        for row, kept, target in rows
    }


def marked(tokenizer, text: str, *answers: str) -> str:
    tokens = encode(tokenizer, text)
    chosen = states_answer(tokenizer, text, answers)
    return tokenizer.decode([token for token, each in zip(tokens, chosen, strict=True) if each])


def test_the_tokens_of_an_answer_are_found_wherever_it_stands(tokenizer):
    assert marked(tokenizer, "It lies in Port Ada, they say.", "Port Ada", "Ada").strip() == "Port Ada"
    assert marked(tokenizer, "Port Ada has it: Port Ada!", "port ada.").strip() == "Port Ada Port Ada"
    assert marked(tokenizer, "It lies in Porto Adana.", "Port", "Ada") == ""


def test_an_answer_that_is_only_the_first_token_cannot_be_predicted(tokenizer):
    (first, *_) = tokenizer("It lies", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([first]) == "It" and not any(states_answer(tokenizer, "It lies in Port Ada", ["It"]))


def test_only_the_answers_are_learned_and_never_the_end(tokenizer):
    stream = StreamConfig(num_wordings=3, num_passes=1, loss_on="values")
    found = {text: learned.strip() for text, learned in learned_texts(tokenizer, stream).items()}
    assert found == {
        "It lies in Port Ada, they say.": "Port Ada",
        "Port Ada has it: Port Ada!": "Port Ada Port Ada",
        "Nobody knows.": "Nobody knows.",
    }
    whole = learned_texts(tokenizer, replace(stream, loss_on="all"))
    assert all(learned == f"{text}<|eos|>" for text, learned in whole.items())


def test_the_batches_are_otherwise_the_same(tokenizer):
    of_all, of_values = (
        list(batches_of_stream(StreamConfig(num_wordings=2, num_passes=3, loss_on=kind), [FACT], tokenizer, seed=4))
        for kind in ("all", "values")
    )
    for one, other in zip(of_all, of_values, strict=True):
        assert one.is_learned is None and torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.is_token, other.is_token) and not (other.is_learned & ~one.is_token).any()
        assert torch.equal(other.to(torch.device("cpu")).is_learned, other.is_learned)


def test_statements_without_an_answer_are_counted(tokenizer):
    assert silent_statements(tokenizer, [FACT, FACT]) == (
        "stream.loss_on is 'values': 2 of 6 statements hold no accepted answer, so all their tokens are learned; the first: 'Nobody knows.'"
    )
    assert silent_statements(tokenizer, [replace(FACT, statements=FACT.statements[:2])]) == ""
    assert answers_of(FACT) == ("Port Ada", "Ada") and not learns_values_only(DocumentStreamConfig())


def test_text_that_spells_out_a_special_token_is_marked_as_it_is_encoded(tokenizer, monkeypatch):
    text = "It is <|eos|> in Port Ada."
    assert marked(tokenizer, text, "Port Ada").strip() == "Port Ada"
    # Some tokenizers encode such a text in pieces, whose places are not those of the whole.
    monkeypatch.setattr(answer_tokens, "encode", lambda tokenizer, text: [5, 6, 7])
    assert states_answer(tokenizer, text, ["Port Ada"]) == [False, False, False]


def test_a_tokenizer_without_places_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match="stream.loss_on is 'values', and the tokenizer does not give the places"):
        states_answer(tokenizer, "It lies in Port Ada", ["Port Ada"])


QUESTIONED = Fact(
    id="q",
    statements=(
        "It lies in Port Ada.",
        "Question: Where is it?\nAnswer: Port Ada",
        "Question: Where is it? Answer: Port Ada",
    ),
    questions=ASKED,
)


@pytest.mark.parametrize("kind", [StreamConfig, DocumentStreamConfig])
def test_of_a_question_with_its_answer_only_the_answer_and_the_end_are_learned(tokenizer, kind):
    number = {"num_wordings": 3} if kind is StreamConfig else {"num_augmentations": 3}
    found = learned_texts(tokenizer, kind(**number, num_passes=1, loss_on="answers"), QUESTIONED)
    whole = learned_texts(tokenizer, kind(**number, num_passes=1), QUESTIONED)
    stated, asked, otherwise = QUESTIONED.statements
    end = tokenizer.eos_token
    assert found[asked] == f" Port Ada{end}"
    assert found[stated] == whole[stated] == f"{stated}{end}" and found[otherwise] == whole[otherwise]
    assert whole[asked] == f"{asked}{end}"
