import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from memlm.data.questions.facts import (
    Fact,
    FactError,
    fact_batch,
    fact_stream,
    read_facts,
    sample_facts,
)
from memlm.data.questions.records import Question
from memlm.data.tokenizer import train_tokenizer

FACTS = [
    Fact(
        id=f"fact {number}",
        statements=tuple(f"{'very ' * wording}short statement {number} in wording {wording}" for wording in range(5)),
        questions=(Question(id=f"fact {number}#0", question=f"What is {number}?", answers=(str(number),)),),
    )
    for number in range(6)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((statement for fact in FACTS for statement in fact.statements), vocab_size=320)


def stream(tokenizer, **changed):
    settings = {"num_wordings": 3, "num_passes": 4, "max_length": 64, "seed": 0, **changed}
    return list(fact_stream(FACTS, tokenizer, **settings))


def statements_of(batch, tokenizer):
    return [tokenizer.decode(row[mask]) for row, mask in zip(batch.tokens, batch.is_token, strict=True)]


def test_the_stream_is_a_pure_function_of_its_arguments(tokenizer):
    first, again, other = stream(tokenizer), stream(tokenizer), stream(tokenizer, seed=1)
    assert [batch.fact_id for batch in first] == [batch.fact_id for batch in again]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    assert [batch.fact_id for batch in first] != [batch.fact_id for batch in other]


def test_a_longer_stream_begins_like_a_shorter_one(tokenizer):
    short, long = stream(tokenizer, num_passes=2), stream(tokenizer, num_passes=4)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(short, long[: len(short)], strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_every_pass_covers_all_facts_once_in_a_new_order(tokenizer, seed):
    ids = [batch.fact_id for batch in stream(tokenizer, seed=seed)]
    passes = [tuple(ids[start : start + 6]) for start in range(0, 24, 6)]
    assert len(ids) == 24
    assert all(set(each) == {fact.id for fact in FACTS} for each in passes)
    assert len(set(passes)) > 1


@pytest.mark.parametrize(("num_wordings", "most_repeats"), [(1, 1), (3, 1), (5, 1), (7, 2), (10, 2), (11, 3)])
def test_wordings_repeat_only_where_a_fact_has_too_few(tokenizer, num_wordings, most_repeats):
    for batch in stream(tokenizer, num_wordings=num_wordings):
        counts = Counter(statements_of(batch, tokenizer))
        assert counts.total() == num_wordings
        assert max(counts.values()) == most_repeats
        assert max(counts.values()) - (min(counts.values()) if len(counts) == 5 else 0) <= 1


def test_wordings_vary_from_pass_to_pass(tokenizer):
    seen = {}
    for batch in stream(tokenizer, num_wordings=2):
        seen.setdefault(batch.fact_id, set()).update(statements_of(batch, tokenizer))
    assert all(len(statements) > 2 for statements in seen.values())


def test_a_row_is_a_statement_its_end_and_pads(tokenizer):
    batch = fact_batch("f", ["short statement 1", "very very short statement 2"], tokenizer, max_length=64)
    assert batch.tokens.shape == batch.is_token.shape
    assert statements_of(batch, tokenizer) == ["short statement 1<|eos|>", "very very short statement 2<|eos|>"]
    assert batch.is_token[1].all() and not batch.is_token[0].all()
    for row, mask in zip(batch.tokens, batch.is_token, strict=True):
        length = int(mask.sum())
        assert mask[:length].all() and not mask[length:].any()
        assert row[length - 1] == tokenizer.eos_token_id
        assert (row[length:] == tokenizer.pad_token_id).all()
        assert not (row[:length] == tokenizer.pad_token_id).any()


def test_a_statement_of_just_the_allowed_length_passes_and_a_longer_one_does_not(tokenizer):
    length = len(tokenizer("short statement 1")["input_ids"]) + 1
    assert fact_batch("f", ["short statement 1"], tokenizer, max_length=length).tokens.shape == (1, length)
    with pytest.raises(FactError, match=rf"'f' has {length} tokens, more than stream.max_length \({length - 1}\)"):
        fact_batch("f", ["short statement 1"], tokenizer, max_length=length - 1)


def test_a_stream_with_too_long_a_statement_is_refused_before_its_first_batch(tokenizer):
    with pytest.raises(FactError, match="more than stream.max_length"):
        fact_stream(FACTS, tokenizer, num_wordings=1, num_passes=1, max_length=8, seed=0)


def test_a_sample_is_a_subset_by_seed():
    first, again, other = (sample_facts(FACTS, 4, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({fact.id for fact in first}) == 4
    assert set(sample_facts(FACTS, 6, seed=0)) == set(FACTS)


def test_a_sample_larger_than_the_facts_is_all_of_them():
    assert sample_facts(FACTS, 100, seed=3) == sample_facts(FACTS, 6, seed=3)


QUESTIONS = [Question(id=f"a/{number}#{wording}", question="?", answers=("x",)) for number in "12" for wording in "01"]


def write_statements(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_facts_are_read_with_all_their_questions(tmp_path):
    path = write_statements(
        tmp_path / "s.jsonl", {"id": "a/1", "statements": ["one", "uno"]}, {"id": "a/2", "statements": ["two"]}
    )
    assert read_facts(str(path), QUESTIONS) == [
        Fact(id="a/1", statements=("one", "uno"), questions=tuple(replace(each, fact="a/1") for each in QUESTIONS[:2])),
        Fact(id="a/2", statements=("two",), questions=tuple(replace(each, fact="a/2") for each in QUESTIONS[2:])),
    ]


def test_numbered_ids_are_not_split_if_the_statements_use_them(tmp_path):
    questions = [Question(id=f"train#{number}", question="?", answers=("x",)) for number in range(3)]
    path = write_statements(
        tmp_path / "s.jsonl", *({"id": f"train#{number}", "statements": [str(number)]} for number in range(3))
    )
    facts = read_facts(str(path), questions)
    assert [(fact.id, len(fact.questions)) for fact in facts] == [("train#0", 1), ("train#1", 1), ("train#2", 1)]
    assert [question.fact_id for fact in facts for question in fact.questions] == ["train#0", "train#1", "train#2"]


def test_an_invalid_id_of_statements_is_reported(tmp_path):
    path = write_statements(tmp_path / "s.jsonl", {"id": ["a/1"], "statements": ["one"]})
    with pytest.raises(FactError, match=r"s.jsonl:1: fact .*a/1.* needs"):
        read_facts(str(path), QUESTIONS)


@pytest.mark.parametrize("record", [{"id": "a/1", "statements": []}, {"id": "b/1", "statements": ["one"]}])
def test_a_fact_without_statements_or_questions_is_refused(tmp_path, record):
    path = write_statements(tmp_path / "s.jsonl", {"id": "a/2", "statements": ["two"]}, record)
    with pytest.raises(FactError, match=r"s.jsonl:2: fact '\w/1' needs at least one statement"):
        read_facts(str(path), QUESTIONS)


def test_a_question_without_a_statement_is_refused(tmp_path):
    path = write_statements(tmp_path / "s.jsonl", {"id": "a/2", "statements": ["two"]})
    with pytest.raises(FactError, match="2 facts have questions but no statements, the first 'a/1#0'"):
        read_facts(str(path), QUESTIONS)


def test_a_damaged_line_of_statements_is_reported(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"id": "a/2", "statements": ["two"]}\n{"id": "a/1", "statem')
    with pytest.raises(ValueError, match="s.jsonl:2"):
        read_facts(str(tmp_path / "s.jsonl"), QUESTIONS)


def test_numeric_ids_match_those_of_the_questions(tmp_path):
    path = write_statements(
        tmp_path / "s.jsonl", {"id": 12, "statements": ["one"]}, {"id": 13.0, "statements": ["two"]}
    )
    questions = [Question(id=id, question="?", answers=("x",)) for id in ("12", "13")]
    assert [fact.id for fact in read_facts(str(path), questions)] == ["12", "13"]
