import pytest
from torch import nn

from memlm.data.questions.records import MultipleChoice
from memlm.evaluation import multiple_choice
from memlm.evaluation.continuations import ContinuationNats
from memlm.evaluation.multiple_choice import choice_chance, choose
from memlm.model.reader import Reader
from tests.support.asking import new_model, new_tokenizer


def record(*choices, gold=0, query="It"):
    return MultipleChoice(id=query, query=query, choices=choices, gold=gold)


def chosen(monkeypatch, records, nats, **options):
    """Scores as if the choices had these nats, in order."""
    asked = []

    def continuation_nats(reader, continuations, **options):
        asked.extend(continuations)
        return [ContinuationNats(nats=each, num_tokens=1) for each in nats]

    monkeypatch.setattr(multiple_choice, "continuation_nats", continuation_nats)
    return choose(Reader(nn.Identity()), records, batch_size=1, **options), asked


def test_the_most_likely_choice_counts_in_total_and_per_character(monkeypatch):
    records = [record("short", "a much longer one", gold=1), record("ab", "cd", "ef", gold=2)]
    scores, asked = chosen(monkeypatch, records, [5.0, 10.0, 3.0, 2.0, 1.0])
    assert scores.accuracy == (0.0, 1.0)  # 5 nats are fewer than 10
    assert scores.accuracy_by_length == (1.0, 1.0)  # 1 a character is more than 10/17
    assert asked[:2] == [("It", " short"), ("It", " a much longer one")]


def test_length_is_in_characters_without_the_space_before(monkeypatch):
    # 4 characters, 8 bytes: 4 nats are 1 a character; the other's 3 characters at 2.9 nats are
    # less.
    scores, _ = chosen(monkeypatch, [record("éééé", "abc", gold=1)], [4.0, 2.9])
    assert scores.accuracy_by_length == (1.0,)
    # 4/4 is less than 3.1/3; with the space counted, 4/5 would be more than 3.1/4.
    scores, _ = chosen(monkeypatch, [record("éééé", "abc", gold=0)], [4.0, 3.1])
    assert scores.accuracy_by_length == (1.0,)


def test_the_first_of_equally_likely_choices_counts(monkeypatch):
    scores, _ = chosen(monkeypatch, [record("ab", "cd", gold=0), record("ab", "cd", gold=1)], [1.0, 1.0, 1.0, 1.0])
    assert scores.accuracy == (1.0, 0.0)


def test_examples_stand_before_the_query_with_their_right_choice(monkeypatch):
    shown = record("no", "yes", gold=1, query="Is it?")
    _, asked = chosen(monkeypatch, [record("a", "b")], [1.0, 1.0], examples=[shown])
    assert asked[0] == ("Is it? yes\n\nIt", " a")


def test_chance_is_that_of_guessing():
    assert choice_chance([record("a", "b"), record("a", "b", "c", "d")]) == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_order_of_records_is_kept_by_a_real_model():
    tokenizer = new_tokenizer()
    model = new_model(tokenizer)
    records = [record("red", "blue tree", "stone", gold=i % 3, query=f"Where is {i}") for i in range(9)]
    together = choose(Reader(model, tokenizer), records, batch_size=5)
    apart = [choose(Reader(model, tokenizer), [each], batch_size=1) for each in records]
    assert together.accuracy == tuple(each.accuracy[0] for each in apart)
    assert together.accuracy_by_length == tuple(each.accuracy_by_length[0] for each in apart)
