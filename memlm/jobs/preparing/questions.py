"""Facts to learn, with their statements, and held-out questions, from question files. All errors
are found before any training."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.config import QuestionSetConfig
from memlm.data.corpus.corpus import open_corpus
from memlm.data.paths import expand
from memlm.data.questions.facts import Fact, FactError, read_facts
from memlm.data.questions.questions import QuestionError, read_set, require_questions, select
from memlm.data.questions.records import MultipleChoice, Question, Record, TaskChoice, Update, numbered_fact
from memlm.data.questions.sets import open_question_sets, write_question_sets
from memlm.data.questions.sources import source_content
from memlm.data.stating.sets import conflict_lines, kind_lines, statable
from memlm.data.stating.statements import facts_of_questions
from memlm.data.world.updates import content_of, updates_of
from memlm.evaluation.answers import normalize
from memlm.evaluation.tasks import default_task, describe_unanswerable, exam_of
from memlm.jobs import augment_documents
from memlm.jobs.on_ray.console import say
from memlm.jobs.preparing.known_questions import choose_by_answers, known_of
from memlm.results.scores import LEARNING_SET


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Selected questions from the files of a config."""

    facts: list[Fact]
    """Empty for a run that learns documents: chunking them needs the tokenizer."""
    held_out: dict[str, list[Record]]
    examples: list[Question]
    mixture: list[Question]
    updates: list[Update]
    """What the facts replace; empty for new facts."""


def run(config: Config, sources: Sources | None = None) -> str:
    """Make the questions artifact, or reuse it; return its uri. A recipe's world must exist
    already.

    `sources` is the result of read_sources, if the caller has read them.
    """
    world = artifacts.world(config).open() if config.world is not None else None
    inputs = {"sources": _sources_digest(config, world)}
    if config.questions.documents:
        documents = augment_documents.run(config)
        inputs["documents"] = storage.read_manifest(documents).digest
    asked = [each for each in (config.questions.facts, *config.questions.held_out) if each.base_answers != "any"]
    sources = sources or (read_sources(config, world) if asked else None)
    for answers in (known_of(config, source, world) for source in asked):
        inputs[answers.uri.rpartition("/")[2]] = answers.digest
    made = artifacts.questions(config).made_from(**inputs)
    if made.is_made():
        say(f"questions: reusing {made.uri}")
        report_unanswerable(config)
        return made.uri
    sources = sources or read_sources(config, world)
    held_out = sources.held_out
    facts = (
        augment_documents.document_facts(documents, digest=inputs["documents"])
        if config.questions.documents
        else sources.facts
    )
    known: dict[str, Sequence[Record]] = {**held_out, "corpus.mixture": sources.mixture}
    facts = _without_overlap(facts, known, remove=config.questions.remove_overlap)
    _report_merged("questions.facts", [question for fact in facts for question in fact.questions])
    for name, records in held_out.items():
        _report_merged(f"questions.held_out {name}", records)
    with made.write() as draft:
        tasks = _tasks(config, held_out)
        write_question_sets(draft.path, facts, held_out, tasks, sources.updates, sources.examples)
        draft.details["num_facts"] = len(facts)
    sets = ", ".join(f"{len(questions)} {name}" for name, questions in held_out.items())
    say(f"questions: {len(facts)} facts to learn; held out: {sets}; in {made.uri}")
    report_unanswerable(config)
    return made.uri


def report_unanswerable(config: Config) -> None:
    """Say which questions can never be answered correctly under this config; needs the
    tokenizer."""
    corpus = artifacts.corpus(config)
    if not corpus.is_there():
        return
    tokenizer, sets = open_corpus(corpus.uri).tokenizer, open_question_sets(artifacts.questions(config).uri)
    asked = [question for fact in sets.facts() for question in fact.questions]
    exams = {"questions.facts": exam_of(LEARNING_SET, asked, TaskChoice())} if asked else {}
    for name, records in sets.held_out().items():
        exams[f"questions.held_out {name}"] = exam_of(name, records, sets.tasks().get(name, TaskChoice()))
    for name, exam in exams.items():
        if message := describe_unanswerable(name, exam, tokenizer, config.evaluation):
            say(message)


def read_sources(config: Config, world: Path | None) -> Sources:
    """Read every question file, so that errors in one are found before any work."""
    if config.questions.documents:
        augment_documents.read_sources(config, world)
    mixture = config.corpus.mixture
    updated, updates = _updates(config)
    sources = Sources(
        facts=updated or ([] if config.questions.documents else _facts(config, world)),
        held_out=_held_out(config, world),
        examples=examples_of(config, world),
        mixture=questions_of(config, mixture, "corpus.mixture.path", world) if mixture else [],
        updates=updates,
    )
    _tasks(config, sources.held_out)
    require_not_answered(config, sources, world)
    return sources


def require_not_answered(config: Config, sources: Sources, world: Path | None) -> None:
    """Raise QuestionError if a question of the run is among those that background text answers:
    what it asks would be spared, or be read before it is learned."""
    samples = config.corpus.samples
    if samples is None or samples.questions is None:
        return
    answered = {
        normalize(each.question)
        for each in questions_of(config, samples.questions, "corpus.samples.questions.path", world)
    }
    new = [question for fact in sources.facts for question in fact.questions]
    asked: dict[str, Sequence[Record]] = {"questions.facts": new, **sources.held_out}
    for name, records in asked.items():
        shared = [record for record in records if normalize(_text_of(record)) in answered]
        if shared:
            raise QuestionError(
                f"corpus.samples.questions and {name} both ask {_text_of(shared[0])!r}, and {len(shared) - 1} more questions; "
                "background text must not hold what is learned or asked, so set skip and num_questions so that they are apart"
            )


def _updates(config: Config) -> tuple[list[Fact], list[Update]]:
    """The updated facts, and what they replace; nothing for a run that learns something else."""
    if config.questions.updates is None or config.world is None:
        return [], []
    facts, updates = updates_of(config.world, config.questions.updates)
    source, field = config.questions.facts, "questions.updates"
    chosen = select(facts, source, report=partial(_print_for_field, field))
    kept = {fact.id for fact in chosen}
    return chosen, [update for update in updates if update.fact in kept]


def fact_questions(config: Config, world: Path | None) -> list[Question]:
    """Questions about the facts to learn."""
    questions = questions_of(config, config.questions.facts, "questions.facts.path", world)
    _report_conflicts(questions)
    return questions


def _report_conflicts(questions: Sequence[Question]) -> None:
    for line in conflict_lines(questions):
        say(f"questions.facts.path: {line}")


def _read(source: QuestionSetConfig, field: str, world: Path | None) -> list[Record]:
    """All records of a set, before any selection."""
    merge_numbered = source.merge_numbered or "{world}" in source.path
    located = replace(source, path=expand(source.path, field, world), merge_numbered=merge_numbered)
    return read_set(located, report=partial(_print_for_field, field))


def _selected(config: Config, source: QuestionSetConfig, field: str, world: Path | None) -> list[Record]:
    """The records that a set selects, by the model's answers too."""
    records, report = _read(source, field, world), partial(_print_for_field, field)
    if source.base_answers != "any":
        records = choose_by_answers(config, source, records, examples_of(config, world), world, report=report)
        source = replace(source, shuffle=False)  # they are in its order already
    return select(records, source, report=report)


def questions_of(config: Config, source: QuestionSetConfig, field: str, world: Path | None) -> list[Question]:
    """The questions that a set selects; `field` names it in messages."""
    return require_questions(source.path, _selected(config, source, field, world))


def examples_of(config: Config, world: Path | None) -> list[Question]:
    """The solved examples that every set of the run is asked behind."""
    source = config.questions.examples
    return [] if source is None else questions_of(config, source, "questions.examples.path", world)


def _facts(config: Config, world: Path | None) -> list[Fact]:
    source, field = config.questions.facts, "questions.facts.path"
    if source.statements:
        questions = require_questions(source.path, _read(source, field, world))
        _report_conflicts(questions)
        facts = read_facts(expand(source.statements, "questions.facts.statements", world), questions)
        return select(facts, source, report=partial(_print_for_field, field))
    questions = statable(fact_questions(config, world), source, report=partial(_print_for_field, field))
    for line in kind_lines(questions, rephrased=source.rephrased):
        say(f"statements: {line}")
    return facts_of_questions(questions, also_asked=source.also_asked, rephrased=source.rephrased)


def _held_out(config: Config, world: Path | None) -> dict[str, list[Record]]:
    sets = {}
    for source in config.questions.held_out:
        sets[source.name] = _selected(config, source, f"questions.held_out {source.name}", world)
    return sets


def _print_for_field(field: str, message: str) -> None:
    say(f"{field}: {message}")


def _report_merged(field: str, records: Sequence[Record]) -> None:
    """Say which questions are scored as one fact, and which ids look as if they should be."""
    facts = {record.fact_id for record in records}
    numbered = [record.id for record in records if not record.fact and numbered_fact(record.id)]
    if len(facts) < len(records):
        say(
            f"{field}: {len(records)} questions ask about {len(facts)} facts; the questions about one fact are scored together"
        )
    if len(set(map(numbered_fact, numbered))) < len(numbered):
        say(
            f"{field}: {len(numbered)} ids differ only in a number after '#' and are scored separately, the first {numbered[0]!r}; "
            "if they are wordings of one question, set merge_numbered"
        )


def _tasks(config: Config, held_out: Mapping[str, Sequence[Record]]) -> dict[str, TaskChoice]:
    """Task of each set. Raises QuestionError for a set without one."""
    choices = {}
    for source in config.questions.held_out:
        records = held_out[source.name]
        task = source.task or default_task(records, source.layout)
        choices[source.name] = TaskChoice(task=task, num_examples=source.num_examples)
        exam_of(f"questions.held_out {source.name}", records, choices[source.name])
    return choices


def _without_overlap(facts: list[Fact], known: Mapping[str, Sequence[Record]], *, remove: bool) -> list[Fact]:
    for name, questions in known.items():
        asked = {normalize(_text_of(record)) for record in questions}
        shared = [fact for fact in facts if _questions_of(fact) & asked]
        if not shared:
            continue
        done = "left out of the facts" if remove else "kept; --questions.remove-overlap True leaves them out"
        say(f"questions: {len(shared)} facts to learn are also asked in {name}, the first {shared[0].id!r}: {done}")
        if remove:
            gone = {fact.id for fact in shared}
            facts = [fact for fact in facts if fact.id not in gone]
    if not facts:
        raise FactError(
            "questions.remove_overlap leaves no fact to learn: each is also asked in a held-out set or in the mixture; give another file of facts"
        )
    return facts


def _text_of(record: Record) -> str:
    return record.query if isinstance(record, MultipleChoice) else record.question


def _questions_of(fact: Fact) -> set[str]:
    return {normalize(question.question) for question in fact.questions}


def _sources_digest(config: Config, world: Path | None) -> str:
    digest = hashlib.sha256()
    for path in _paths(config):
        digest.update(source_content(expand(path, "a question file", world)))
    if config.questions.updates is not None:
        digest.update(content_of(*_updates(config)))
    return digest.hexdigest()


def _paths(config: Config) -> Iterable[str]:
    questions = config.questions
    reads_facts = questions.documents is None and questions.updates is None
    if reads_facts:
        yield questions.facts.path
    if reads_facts and questions.facts.statements:
        yield questions.facts.statements
    yield from (held_out.path for held_out in questions.held_out)
    if questions.examples is not None:
        yield questions.examples.path
    if config.corpus.mixture:
        yield config.corpus.mixture.path
