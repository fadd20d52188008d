"""Question files -> the facts to learn, put into statements, and the held-out questions. Checked before anything is trained."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from memlm import storage
from memlm.config import Config
from memlm.data.config import QuestionSetConfig
from memlm.data.facts import Fact, FactError, read_facts
from memlm.data.question_sets import KIND, write_question_sets
from memlm.data.questions import Question, read_questions, select
from memlm.data.statements import facts_of_questions
from memlm.evaluation.answers import normalize
from memlm.jobs import augment_documents
from memlm.jobs.cluster import say
from memlm.jobs.sources import expand
from memlm.run import WORLD_KIND, is_made, questions_config, run_of


def run(config: Config) -> str:
    """Make the questions artifact, or find it made; returns its uri. The world, where the recipe has one, is there."""
    run = run_of(config)
    world = storage.open_artifact(run.world, kind=WORLD_KIND) if config.world is not None else None
    inputs = {"sources": _sources_digest(config, world)}
    if config.questions.documents:
        inputs["documents"] = storage.read_manifest(augment_documents.run(config)).digest
    wanted = questions_config(config)
    if is_made(run.questions, kind=KIND, config=wanted, inputs=inputs, part="questions"):
        say(f"questions: reusing {run.questions}")
        return run.questions
    facts, held_out = _facts(config, world), _held_out(config, world)
    known = {**held_out, **({"corpus.mixture": mixture_questions(config, world)} if config.corpus.mixture else {})}
    facts = _without_overlap(facts, known, remove=config.questions.remove_overlap)
    with storage.write_artifact(run.questions, kind=KIND, config=wanted, inputs=inputs) as draft:
        write_question_sets(draft.path, facts, held_out)
        draft.details["num_facts"] = len(facts)
    sets = ", ".join(f"{len(questions)} {name}" for name, questions in held_out.items())
    say(f"questions: {len(facts)} facts to learn; held out: {sets}; in {run.questions}")
    return run.questions


def read_sources(config: Config, world: Path | None) -> None:
    """Everything that can be wrong with the question files, found before work is done."""
    if config.questions.documents:
        augment_documents.read_sources(config, world)
    else:
        _facts(config, world)
    _held_out(config, world)
    if config.corpus.mixture:
        mixture_questions(config, world)


def fact_questions(config: Config, world: Path | None) -> list[Question]:
    """What is asked about the facts to learn."""
    return _read(config.questions.facts, "questions.facts.path", world)


def mixture_questions(config: Config, world: Path | None) -> list[Question]:
    """The facts that the training text is mixed with."""
    assert config.corpus.mixture is not None
    return _read(config.corpus.mixture, "corpus.mixture.path", world)


def _read(source: QuestionSetConfig, field: str, world: Path | None) -> list[Question]:
    return select(read_questions(expand(source.path, field, world), source.layout), source)


def _facts(config: Config, world: Path | None) -> list[Fact]:
    source = config.questions.facts
    if config.questions.documents:
        return augment_documents.document_facts(config)
    if source.statements:
        questions = read_questions(expand(source.path, "questions.facts.path", world), source.layout)
        return select(
            read_facts(Path(expand(source.statements, "questions.facts.statements", world)), questions), source
        )
    return facts_of_questions(fact_questions(config, world))


def _held_out(config: Config, world: Path | None) -> dict[str, list[Question]]:
    return {
        source.name: _read(source, f"questions.held_out {source.name}", world) for source in config.questions.held_out
    }


def _without_overlap(facts: list[Fact], known: Mapping[str, Sequence[Question]], *, remove: bool) -> list[Fact]:
    for name, questions in known.items():
        asked = {normalize(question.question) for question in questions}
        shared = [fact for fact in facts if _questions_of(fact) & asked]
        if not shared:
            continue
        done = "left out of the facts" if remove else "kept; --questions.remove-overlap True leaves them out"
        say(f"questions: {len(shared)} facts to learn are asked in {name} too, the first {shared[0].id!r}: {done}")
        if remove:
            gone = {fact.id for fact in shared}
            facts = [fact for fact in facts if fact.id not in gone]
    if not facts:
        raise FactError(
            "questions.remove_overlap leaves no fact to learn: each is asked in a held-out set or in the mixture; name another file of facts"
        )
    return facts


def _questions_of(fact: Fact) -> set[str]:
    return {normalize(question.question) for question in fact.questions}


def _sources_digest(config: Config, world: Path | None) -> str:
    digest = hashlib.sha256()
    for path in _paths(config):
        digest.update(Path(expand(path, "a question file", world)).read_bytes())
    return digest.hexdigest()


def _paths(config: Config) -> Iterable[str]:
    questions = config.questions
    if questions.documents is None:
        yield questions.facts.path
    if questions.documents is None and questions.facts.statements:
        yield questions.facts.statements
    yield from (held_out.path for held_out in questions.held_out)
    if config.corpus.mixture:
        yield config.corpus.mixture.path
