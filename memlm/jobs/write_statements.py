"""Statements of the facts to learn, written by a language model, for questions.facts.statements.

statements/statements.jsonl   the statements
statements/questions.jsonl    the questions about the stated facts
statements/short.jsonl        facts with fewer wordings than asked for, and why
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shlex import quote

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.config import WordingsConfig
from memlm.data.corpus.shards import write_shard
from memlm.data.paths import expand
from memlm.data.questions.files import write_nq_open
from memlm.data.questions.records import Question
from memlm.data.questions.sources import source_content
from memlm.data.stating.paraphrasing import PROMPTS, Stated, check_stated, questions_by_fact, state_facts
from memlm.data.writers.build import revision_of
from memlm.data.writers.interface import Writer
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.preparing.questions import fact_questions
from memlm.jobs.preparing.writing_units import Record, write_in_units
from memlm.jobs.sources import open_world
from memlm.kinds import SHORT_FILE, STATED_QUESTIONS_FILE, STATEMENTS_FILE
from memlm.run import run_of


def run(config: Config) -> str:
    """Write statements of all facts, or only of the missing ones, or reuse the artifact; return its
    uri."""
    require_ready(config)
    world = open_world(config)
    facts = questions_by_fact(fact_questions(config, world))
    path = expand(config.questions.facts.path, "questions.facts.path", world)
    revision = revision_of(config.writer)
    statements = artifacts.statements(config, revision=revision, prompts=PROMPTS)
    statements = statements.made_from(questions=hashlib.sha256(source_content(path)).hexdigest())

    def is_there() -> bool:
        made = statements.is_made()
        if made:
            say(f"statements: reusing {statements.uri}")
        return made

    if not is_there():
        with alone(run_of(config).statements_lease):
            if not is_there():  # unless another driver made it meanwhile
                _state_all(config, facts, statements, revision)
    return statements.uri


def _state_all(config: Config, facts: dict[str, list[Question]], statements: Artifact, revision: str) -> None:
    """Write the missing statements and the artifact."""
    with connect(config):
        records = write_in_units(
            config,
            partial(_state, config=config.wordings),
            [{"questions": [asdict(question) for question in asked]} for asked in facts.values()],
            folder=statements.units,
            wanted=artifacts.unit_of_statements(config, revision=revision, prompts=PROMPTS),
            revision=revision,
        )
    stated = [Stated(**{**record, "statements": tuple(record["statements"])}) for record in records]
    short = check_stated(stated, config.wordings)
    with statements.write() as draft:
        _write(draft.path, facts, stated, short)
        draft.details.update(num_facts=len(stated), num_short=len(short))
    storage.delete_made(statements.units)
    _report(statements.uri, stated, short)


def _state(writer: Writer, items: Sequence[Record], *, config: WordingsConfig) -> list[Record]:
    facts = [
        [Question(**{**question, "answers": tuple(question["answers"])}) for question in item["questions"]]
        for item in items
    ]
    return [asdict(stated) for stated in state_facts(writer, facts, config)]


def _write(folder: Path, facts: dict[str, list[Question]], stated: Sequence[Stated], short: Sequence[Stated]) -> None:
    kept = [fact for fact in stated if fact.statements]
    write_shard(str(folder / STATEMENTS_FILE), ({"id": fact.id, "statements": list(fact.statements)} for fact in kept))
    write_nq_open(str(folder / STATED_QUESTIONS_FILE), (question for fact in kept for question in facts[fact.id]))
    write_shard(
        str(folder / SHORT_FILE),
        ({"id": fact.id, "num_statements": len(fact.statements), "rejected": fact.rejected} for fact in short),
    )


def _report(uri: str, stated: Sequence[Stated], short: Sequence[Stated]) -> None:
    num_lines = sum(len(fact.statements) + sum(fact.rejected.values()) for fact in stated)
    num_passed = sum(len(fact.statements) for fact in stated)
    say(
        f"statements: {num_passed} wordings of {len(stated)} facts, {num_passed / max(1, num_lines):.0%} of the model's lines"
    )
    for fact in short[:5]:
        say(
            f"  {fact.id}: only {len(fact.statements)}; rejected: {fact.rejected or 'nothing; the model wrote no more'}"
        )
    if short:
        say(
            f"  {len(short)} facts have fewer statements than asked for; see {storage.address_of_file(uri, SHORT_FILE)}"
        )
    questions, statements = (
        quote(storage.address_of_file(uri, name)) for name in (STATED_QUESTIONS_FILE, STATEMENTS_FILE)
    )
    say(
        f"learn them with: --questions.facts.path {questions} --questions.facts.layout nq_open "
        f"--questions.facts.statements {statements} --questions.facts.skip 0 --questions.facts.num-questions 0"
    )
