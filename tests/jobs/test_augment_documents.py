"""The job with rules and with a model behind an endpoint, and a trial on its result."""

import json
import re
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.config import DocumentsConfig, DocumentStreamConfig
from memlm.data.corpus.corpus import write_corpus
from memlm.data.corpus.shards import write_shard
from memlm.data.questions.sets import open_question_sets
from memlm.data.tokenizer import train_tokenizer
from memlm.data.writers.config import EndpointConfig, WriterConfig
from memlm.jobs import augment_documents, finetune, prepare_corpus, pretrain
from tests.jobs.running import refused, smoke
from tests.support.serving import says, serving

NAMES = ("Ada", "Bo", "Cy")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Three documents of two paragraphs and an empty one; a question about each first paragraph,
    and one that no document answers."""
    texts = {
        name: f"{name} was born in {name}ville in 190{i}.\n{name} kept bees for 3{i} years."
        for i, name in enumerate(NAMES)
    }
    documents = [{"id": name, "title": f"{name} Doe", "text": text} for name, text in texts.items()]
    write_shard(str(tmp_path / "documents.jsonl"), [*documents, {"id": "none", "title": "None", "text": ""}])
    asked = [(f"q{name}", f"Where was {name} Doe born?", f"{name}ville", [name]) for name in NAMES]
    asked.append(("why", "Why bees?", "nobody knows", ["Ada"]))
    fields = ("id", "question", "answer", "doc_ids")
    write_shard(str(tmp_path / "asked.jsonl"), (dict(zip(fields, one, strict=True)) for one in asked))
    plain = smoke(tmp_path / "runs", "--tracking", "off")
    documents_config = DocumentsConfig(
        path=str(tmp_path / "documents.jsonl"),
        questions=str(tmp_path / "asked.jsonl"),
        chunk_tokens=48,
        min_chunk_tokens=0,
        max_augmentation_tokens=63,
        num_augmentations=6,
    )
    return replace(
        plain,
        questions=replace(plain.questions, documents=documents_config),
        stream=DocumentStreamConfig(num_documents=2, num_augmentations=4, max_length=64),
    )


def studies(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
    """Writer that names two strategies and applies each."""
    prompt = content["messages"][0]["content"]
    name = re.search(r"<document>\n(\w+) Doe", prompt)[1]
    if "What are some strategies" in prompt:
        says("## Sing it\n## Draw it")(handler, content)
    else:
        strategy = re.search(r"(Sing|Draw) it", prompt)[1]
        text = f"{strategy} {content['seed']}: {name} of {name}ville kept bees. "
        says(text + f"And {name} said so once more. " * 20)(handler, content)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_documents_are_learned_by_a_trial_like_facts(config: Config, capfd):
    prepare_corpus.run(config)
    questions = open_question_sets(artifacts.questions(config).uri)
    facts = questions.facts()
    assert [fact.id for fact in facts] == ["Ada#0", "Ada#1", "Bo#0", "Bo#1", "Cy#0", "Cy#1"]
    assert [[question.id for question in fact.questions] for fact in facts] == [["qAda"], [], ["qBo"], [], ["qCy"], []]
    assert all(len(set(fact.statements)) == 6 for fact in facts)
    out = capfd.readouterr().out
    assert "document 'none' is empty and left out (1 in all)" in out and "3 in 6 chunks, 36 texts" in out
    assert "3 of 4 questions" in out
    pretrain.run(replace(config, architecture="dense"))
    learned = finetune.run(replace(config, method=lora_of(config), trace=True))
    metrics = json.loads((storage.open_artifact(f"{learned}-trace") / "stream_metrics.json").read_text())
    assert metrics["num_facts"] == 2 and metrics["num_steps"] == 4  # each document has a chunk without a question
    scores = json.loads((storage.open_artifact(learned) / "scores.json").read_text())
    assert scores["extra"]["steps"] == 4 and "new_facts" in json.dumps(scores["end"])


def lora_of(config: Config) -> Any:
    from memlm.methods.registry import METHOD_CONFIGS

    return METHOD_CONFIGS["lora"]()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_active_reading_asks_a_model_once_and_cuts_what_does_not_fit(config: Config):
    assert config.questions.documents is not None
    prepare_corpus.run(config)
    documents = replace(config.questions.documents, augmenter="general", answering_chunks_only=True)
    with serving(studies) as server:
        endpoint = EndpointConfig(base_url=server.url)
        read = replace(
            config,
            run_name="read",
            base_run="smoke",
            questions=replace(config.questions, documents=documents),
            writer=WriterConfig(model="m", endpoint=endpoint, items_per_unit=1),
        )
        uri = augment_documents.run(read)
        num_asked = len(server.asked)
        assert augment_documents.run(read) == uri and len(server.asked) == num_asked == 3 * (1 + 6)
    manifest = storage.read_manifest(uri)
    assert manifest.config["writer"]["model"] == "m" and manifest.details["num_cut"] == 18
    facts = augment_documents.document_facts(uri, digest=manifest.digest)
    assert [fact.id for fact in facts] == ["Ada#0", "Bo#0", "Cy#0"]
    assert all(text.endswith(".") for fact in facts for text in fact.statements)
    assert {text.split()[0] for text in facts[0].statements} == {"Sing", "Draw"}


def given(config: Config, folder: Path, **settings: Any) -> Config:
    """The run with rewrites of its documents, each with its questions in one file, and with a
    corpus that has only a tokenizer."""
    assert config.questions.documents is not None
    rewrites = [f"1. {{name}} came from {{name}}ville in number {number} of the town." for number in range(9)]
    records = [
        {
            "id": name,
            "title": f"{name} Doe",
            "text": f"{name} was born in {name}ville.\n{name} kept bees.",
            "rewrites": ["\n".join(rewrites).format(name=name)],
            "questions": [{"question": "Where was that?", "answer": f"{name}ville"}],
        }
        for name in NAMES
    ]
    write_shard(str(folder / "given.jsonl"), records)
    sources = dict.fromkeys(("path", "questions"), str(folder / "given.jsonl"))
    options = {"chunk_tokens": 200, "min_chunk_tokens": 200, "max_augmentation_tokens": 40, **settings}
    documents = replace(config.questions.documents, augmenter="given", **sources, **options)
    config = replace(config, world=None, questions=replace(config.questions, documents=documents))
    with artifacts.corpus(config).write() as draft:
        tokenizer = train_tokenizer([str(record) for record in records], vocab_size=300)
        write_corpus(draft.path, tokenizer, train=[], validation=[], accounts={}, quarantined={})
    return config


def test_rewrites_that_come_with_the_documents_are_learned_without_ray_or_a_writer(config: Config, tmp_path: Path):
    config = given(config, tmp_path)
    uri = augment_documents.run(config)
    assert augment_documents.run(config) == uri
    facts = augment_documents.document_facts(uri, digest=storage.read_manifest(uri).digest)
    assert [fact.id for fact in facts] == ["Ada#0", "Bo#0", "Cy#0"]
    assert [[question.question for question in fact.questions] for fact in facts] == [
        [f"Topic: {name} Doe\nWhere was that?"] for name in NAMES
    ]
    assert facts[1].statements[:2] == ("Bo Doe\nBo was born in Boville.", "Bo Doe\nBo kept bees.")
    assert len(facts[1].statements) == 6, "num_augmentations"
    assert "writer" not in storage.read_manifest(uri).config


def test_rewrites_are_of_whole_documents(config: Config, tmp_path: Path, capfd):
    said = refused(capfd, augment_documents.run, given(config, tmp_path, chunk_tokens=20, min_chunk_tokens=0))
    assert "document 'Ada' is cut into 2 chunks, and its rewrites are about all of it" in said


def test_a_run_without_documents_is_refused(tmp_path: Path, capfd):
    assert "the recipe has no questions.documents" in refused(capfd, augment_documents.run, smoke(tmp_path))


def test_chunks_texts_stream_and_model_must_fit(config: Config):
    documents = config.questions.documents
    assert documents is not None
    with pytest.raises(ValueError, match="they must be in ascending order"):
        replace(documents, chunk_tokens=100)
    with pytest.raises(ValueError, match="max_augmentation_tokens is 63.*stream.max_length \\(63\\)"):
        replace(config, stream=DocumentStreamConfig(max_length=63))
    with pytest.raises(
        ValueError, match="stream.max_length is 5120, more than the .* positions.*raise model.max_positions"
    ):
        replace(config, stream=DocumentStreamConfig(max_length=5120))
    with pytest.raises(ValueError, match="belong together"):
        replace(config, questions=replace(config.questions, documents=None))
