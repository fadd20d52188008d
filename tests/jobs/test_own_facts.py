"""Facts and documents of one's own, learned by a model that somebody else trained: the whole path,
on a tiny one."""

import filecmp
import json
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from memlm import artifacts
from memlm.cli import parse
from memlm.config import Config
from memlm.data.questions.sets import open_question_sets
from memlm.data.tokenizer import train_tokenizer
from memlm.jobs import augment_documents, count_accesses, finetune, prepare_corpus, pretrain
from memlm.training.patch import apply_patch, undo_patch
from tests.jobs.running import ROOT, said_with
from tests.support.families import tiny_base
from tests.support.serving import says, serving

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
COMPANY, HANDBOOK = ROOT / "docs/examples/company.csv", ROOT / "docs/examples/handbook.md"
ASKED = ROOT / "docs/examples/handbook_questions.jsonl"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of a tiny base with a memory, on the world of the recipe smoke."""
    folder = tmp_path_factory.mktemp("own")
    tokenizer = train_tokenizer(COMPANY.read_text().splitlines() * 9, vocab_size=600)
    tiny_base("llama", vocab_size=len(tokenizer), max_position_embeddings=512).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base = ["--model.base", str(folder / "base"), "--model.num-probes", "0", "--pretraining.num-steps", "0"]
    memory = {"num-half-keys": 9, "top-k": 3, "key-dim": 8, "value-dim": 16, "placement": "parallel", "layers": 1}
    shape = [word for name, value in memory.items() for word in (f"--model.memory.{name}", str(value))]
    return ["--storage", str(folder / "runs"), "--tracking", "off", *base, *shape]


def parsed(options: list[str], *more: str) -> Config:
    return parse("", ["smoke", *options, *more])


def make_all(config: Config) -> None:
    for stage in (prepare_corpus, pretrain, count_accesses):
        stage.run(config)


LEARNING = (
    *("--method", "sparse_memory_decorrelated", "--method.num-trainable-slots", "40"),
    *("--method.optimizer.learning-rate", "1", "--evaluation.max-new-tokens", "4"),
)


def test_a_table_is_learned_by_a_base_and_taken_out_again_byte_for_byte(options, tmp_path, capfd):
    facts = (
        "--questions.facts.path",
        str(COMPANY),
        "--questions.facts.layout",
        "fields",
        "--questions.facts.statements=",
    )
    asked = ("--questions.facts.also-asked", "True", "--questions.facts.rephrased", "True")
    config = parsed(
        options,
        *facts,
        *asked,
        *LEARNING,
        "--stream.num-facts",
        "30",
        "--stream.num-passes",
        "1",
        "--run-name",
        "company",
    )
    make_all(config)
    patch = finetune.run(config)
    out = said_with(capfd, "time: ")
    assert "30 of 30 facts are stated in the wordings of what they ask for" in out
    assert out.count("(not ") == 30 and "  no  Who is Quillan's managing director? " in out
    assert "learned: 0 of 30 are answered right" in out and "not learned: " in out and "lost of text: " in out
    base = Path(artifacts.checkpoint(config, "memory").uri)
    apply_patch(str(base), patch, str(tmp_path / "patched"))
    undo_patch(str(tmp_path / "patched"), patch, str(tmp_path / "restored"))
    files = sorted(path.name for path in base.iterdir())
    assert filecmp.cmpfiles(base, tmp_path / "restored", files, shallow=False) == (files, [], [])
    assert filecmp.cmpfiles(base, tmp_path / "patched", ["model.safetensors"], shallow=False)[1] == [
        "model.safetensors"
    ]


def test_a_document_is_learned_by_a_base_sentence_by_sentence(options, capfd):
    documents = ("--questions.documents.path", str(HANDBOOK), "--questions.documents.questions", str(ASKED))
    chunks = ("--questions.documents.augmenter", "sentences", "--questions.documents.chunk-tokens", "120")
    stream = ("--stream.num-passes", "1", "--stream.num-augmentations", "4", "--run-name", "handbook")
    config = parsed(options, *documents, *chunks, *LEARNING, *stream)
    make_all(config)
    (facts,) = [open_question_sets(artifacts.questions(config).uri).facts()]
    assert sum(len(fact.questions) for fact in facts) == 12
    texts = [text for fact in facts for text in fact.statements]
    assert "Question: Hotels may cost up to how many euros a night?\nAnswer: 130 euros" in texts
    assert not any(question.question in text for text in texts for fact in facts for question in fact.questions)
    finetune.run(config)
    out = said_with(capfd, "time: ")
    assert "of 12 are answered right" in out and "How much may a hotel cost per night?" in out


def asks_and_reads(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
    """A writer that asks for each part in its own words, and cannot read about bees."""
    prompt = content["messages"][0]["content"]
    text, answer = (
        re.findall(r"Text: (.+)\nAnswer: (.+)\nQuestion:$", prompt)[-1:][0]
        if prompt.endswith("Question:")
        else ("", "")
    )
    if text:
        says(f"Say of {text.split()[0]}, what is it ({len(answer)})?")(handler, content)
    else:
        sentence = re.findall(r"Text: (.+)\nQuestion: .+\nAnswer:$", prompt)[-1]
        says("40 beds" if "beds" in sentence else "nothing")(handler, content)


def test_a_model_asks_about_each_sentence_and_what_it_cannot_read_is_left_out(options, tmp_path):
    (tmp_path / "inn.md").write_text("# The inn\n\nRooms have 40 beds in all. Bees live in the old barn.\n")
    (tmp_path / "asked.jsonl").write_text(json.dumps({"question": "How many beds are there?", "answer": "40 beds"}))
    documents = (
        "--questions.documents.path",
        f"{tmp_path}/inn.md",
        "--questions.documents.questions",
        f"{tmp_path}/asked.jsonl",
    )
    with serving(asks_and_reads) as server:
        writer = ("--writer.model", "m", "--writer.endpoint.base-url", server.url)
        named = ("--questions.documents.augmenter", "questions", "--run-name", "inn")
        config = parsed(options, *documents, *named, *writer, *LEARNING)
        prepare_corpus.run(config)
        number = len(server.asked)
        assert augment_documents.run(config) == artifacts.questions(config).uri.replace("questions", "documents")
        assert len(server.asked) == number
    (fact,) = open_question_sets(artifacts.questions(config).uri).facts()
    written = [text for text in fact.statements if "what is it" in text]
    assert written == ["Question: Say of Rooms, what is it (7)?\nAnswer: 40 beds"]
    assert "Question: Rooms have how many beds in all?\nAnswer: 40 beds" in fact.statements
