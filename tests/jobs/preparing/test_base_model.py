"""What the model before learning is asked, and what it writes by itself: once, in units, the same
each time."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from memlm import artifacts, storage
from memlm.data.config import HeldOutConfig, KnownConfig, QuestionSetConfig
from memlm.data.corpus.config import SamplesConfig
from memlm.data.corpus.shards import read_documents, write_shard
from memlm.data.questions.questions import QuestionError, read_questions
from memlm.data.questions.records import Question
from memlm.data.tokenizer import save_tokenizer
from memlm.evaluation.question_answering import answer_questions
from memlm.jobs.preparing import base_samples
from memlm.jobs.preparing.base_model import read_base
from memlm.jobs.preparing.known_questions import Asking, choose_by_answers, known_of
from memlm.jobs.preparing.questions import read_sources, require_not_answered
from memlm.jobs.preparing.questions import run as make_questions
from memlm.model.reader import Reader
from tests.jobs.running import smoke
from tests.support.asking import WORDS, new_model, new_tokenizer

ASKED = [
    Question(id=f"q{i}", question=f"Where is the {a} {b}?", answers=("nowhere",))
    for i, (a, b) in enumerate(pairwise(WORDS))
]
EXAMPLES = [Question(id=f"e{i}", question=f"Where is the {word}?", answers=(word,)) for i, word in enumerate(WORDS[:3])]


def write_questions(path: Path, questions) -> str:
    rows = [{"id": each.id, "question": each.question, "answers": list(each.answers)} for each in questions]
    write_shard(str(path), rows)
    return str(path)


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def config(tmp_path, tokenizer):
    """A run whose dense checkpoint is a tiny model, which answers half of the questions right."""
    plain = smoke(tmp_path / "runs", "--tracking", "off")
    with artifacts.corpus(plain).write() as draft:
        save_tokenizer(tokenizer, draft.path / "tokenizer")
    model = new_model(tokenizer, dense=True)
    with artifacts.checkpoint(plain, "dense").write() as draft:
        model.save_pretrained(draft.path)
        save_tokenizer(tokenizer, draft.path)
    answered = answer_questions(Reader(model, tokenizer), ASKED, examples=EXAMPLES, max_new_tokens=4, batch_size=128)
    said = dict(zip([each.id for each in ASKED], answered.answers, strict=True))
    assert all(said.values())
    asked = [replace(each, answers=(said[each.id],) if i % 2 else each.answers) for i, each in enumerate(ASKED)]
    source = {"path": write_questions(tmp_path / "asked.jsonl", asked), "layout": "entityquestions"}
    examples = QuestionSetConfig(path=write_questions(tmp_path / "examples.jsonl", EXAMPLES), layout="entityquestions")
    questions = replace(
        plain.questions,
        facts=replace(plain.questions.facts, **source, statements="", base_answers="wrong"),
        held_out=(HeldOutConfig(name="known_facts", **source, base_answers="right", num_questions=3),),
        examples=examples,
        known=KnownConfig(max_new_tokens=4, questions_per_unit=3),
    )
    return replace(plain, world=None, questions=questions)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_facts_are_what_the_model_does_not_know_and_known_facts_what_it_knows(config, capfd):
    sources = read_sources(config, None)
    assert [fact.id for fact in sources.facts] == [each.id for each in ASKED[::2]]
    assert [each.id for each in sources.held_out["known_facts"]] == [each.id for each in ASKED[1::2]][:3]
    assert [each.id for each in sources.examples] == [each.id for each in EXAMPLES]
    said = capfd.readouterr().out
    assert "the model answers 5 of 11 questions right" in said
    assert said.count("asking ") == 1, "the sets share what is known"
    known = known_of(config, config.questions.facts, None)
    assert known.is_made() and known.manifest().details == {"num_asked": 11, "num_right": 5}
    first = (known.open() / "answers.jsonl").read_bytes()
    storage.delete_made(known.uri)
    read_sources(config, None)
    assert (known.open() / "answers.jsonl").read_bytes() == first, "asked again, it answers the same"
    sets = make_questions(config)
    assert known.uri.rpartition("/")[2] in storage.read_manifest(sets).inputs
    assert "reusing" not in capfd.readouterr().out
    make_questions(config)
    assert "questions: reusing" in capfd.readouterr().out


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_finished_units_are_not_asked_again(config, monkeypatch):
    source = config.questions.facts
    known = known_of(config, source, None)
    wanted = {**known.identity, "inputs": dict(known.inputs)}
    lines = [{"id": each.id, "answer": "from before", "right": True} for each in ASKED[:3]]
    items = json.dumps(
        [vars(each) | {"answers": list(each.answers)} for each in asked_of(config)[:3]], ensure_ascii=False
    )
    unit = artifacts.written_unit(storage.join(known.units, artifacts.unit_name(0, 3)), items, decided_by=wanted)
    with unit.write() as draft:
        write_shard(str(draft.path / "records.jsonl"), lines)
    chosen = choose_by_answers(
        config, replace(source, base_answers="right"), asked_of(config), EXAMPLES, None, report=print
    )
    assert [each.id for each in chosen] == ["q0", "q1", "q2", "q3", "q5", "q7", "q9"]


def asked_of(config):
    return read_questions(config.questions.facts.path, "entityquestions")


def test_a_unit_is_asked_behind_the_examples(config):
    """In the process itself; the answers are those of whole prompts."""
    checkpoint = artifacts.checkpoint(config, "dense")
    asking = Asking(
        config=config, uri=checkpoint.uri, digest=checkpoint.digest, task="entityquestions", examples=tuple(EXAMPLES)
    )
    lines = asking(None, [vars(each) for each in asked_of(config)])
    assert [line["right"] for line in lines] == [bool(i % 2) for i in range(len(ASKED))]
    unit = asking(None, [vars(each) for each in asked_of(config)[3:6]])
    assert unit == lines[3:6]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_samples_are_shards_that_are_read_as_any_corpus(config, tmp_path):
    settings = SamplesConfig(num_texts=10, num_validation_texts=2, max_tokens=12, texts_per_unit=4)
    config = replace(config, corpus=replace(config.corpus, samples=settings))
    base = artifacts.checkpoint(config, "dense")
    samples = base_samples.run(config, base)
    folder = samples.open()
    texts = {
        split: [each for path in sorted((folder / split).iterdir()) for each in read_documents(str(path))]
        for split in ("train", "validation")
    }
    empty = samples.manifest().details["num_empty"]
    assert len(texts["train"]) + len(texts["validation"]) == 12 - empty
    assert len({document.text for document in texts["train"]}) > 5
    before = {path.name: path.read_bytes() for path in (folder / "train").iterdir()}
    storage.delete_made(samples.uri)
    again = base_samples.run(config, base).open()
    assert {path.name: path.read_bytes() for path in (again / "train").iterdir()} == before


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_samples_hold_the_bases_answers_to_questions_that_no_set_asks(config, tmp_path):
    others = [replace(each, id=f"other {each.id}", question=f"{each.question} Tell me.") for each in ASKED]
    source = QuestionSetConfig(path=write_questions(tmp_path / "others.jsonl", others), layout="entityquestions")
    settings = SamplesConfig(num_texts=2, num_validation_texts=1, max_tokens=4, questions=source)
    base, sources = artifacts.checkpoint(config, "dense"), read_sources(config, None)
    config = replace(config, corpus=replace(config.corpus, samples=settings))
    samples = base_samples.run(config, base)
    texts = [
        document.text for path in sorted((samples.open() / "train").iterdir()) for document in read_documents(str(path))
    ]
    asking = Asking(config=config, uri=base.uri, digest=base.digest, task="entityquestions", examples=tuple(EXAMPLES))
    answers = [line["answer"].strip() for line in asking(None, [vars(each) for each in others])]
    pairs = "\n\n".join(texts[-math.ceil(len(others) / 10) :]).split("\n\n")
    assert pairs == [
        f"Question: {each.question}\nAnswer: {answer}".strip() for each, answer in zip(others, answers, strict=True)
    ]
    assert samples.manifest().details["num_answers"] == len(others)
    require_not_answered(config, sources, None)
    same = replace(settings, questions=replace(source, path=config.questions.facts.path))
    with pytest.raises(QuestionError, match=r"corpus.samples.questions and questions.facts both ask"):
        require_not_answered(replace(config, corpus=replace(config.corpus, samples=same)), sources, None)


def test_a_base_is_read_once_in_a_process(config):
    checkpoint = artifacts.checkpoint(config, "dense")
    assert read_base(config, checkpoint.uri, checkpoint.digest) is read_base(config, checkpoint.uri, checkpoint.digest)
    with pytest.raises(storage.StorageError):
        read_base(config, checkpoint.uri, "0" * 64)
