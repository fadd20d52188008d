"""Count of the facts or documents that a recipe would learn, from its files, without making
anything."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from memlm import storage
from memlm.config import Config
from memlm.data.config import DocumentsConfig, FactsConfig
from memlm.data.paths import WORLD, expand
from memlm.data.questions.questions import read_set, require_questions, select
from memlm.data.questions.records import numbered_fact
from memlm.data.stating.sets import conflict_lines, kind_lines, statable
from memlm.data.world.updates import updates_of
from memlm.data.world.world import World
from memlm.hub import HUB

TOKENS_PER_WORD = 1.4
"""English in vocabularies of thousands of tokens."""


@dataclass(frozen=True)
class Counted:
    """Number of facts or documents, None if it is unknown before a run, and notes on them."""

    number: int | None
    notes: tuple[str, ...] = ()
    num_chunks: int = 0
    """About as many chunks have the documents; 0 for facts."""


def count_learned(config: Config, world: Path | None) -> Counted:
    """Count the facts or documents to learn; `world` is the generated world's folder if it exists.

    Raises ValueError for anything that a run would be refused for.
    """
    documents, facts = config.questions.documents, config.questions.facts
    if documents is not None:
        return _count_documents(documents)
    if config.questions.updates is not None and config.world is not None:
        updated, _ = updates_of(config.world, config.questions.updates)
        return Counted(len(select(updated, facts)))
    if WORLD in facts.path and world is None:
        return _count_of_the_world(config)
    merged = facts.merge_numbered or WORLD in facts.path
    located = replace(facts, path=expand(facts.path, "questions.facts.path", world), merge_numbered=merged)
    if located.path.startswith(HUB) or storage.is_remote(located.path):
        return Counted(None, ("files on S3 or the hub are counted when a run reads them",))
    said: list[str] = []
    questions = require_questions(facts.path, read_set(located, report=said.append))
    if facts.base_answers != "any":
        asked = min(len(questions), config.questions.known.num_asked or len(questions))
        line = f"of {asked} questions, those that the model before learning answers {facts.base_answers} are learned; a run counts them"
        return Counted(None, (*said, line, *conflict_lines(questions)))
    if facts.statements and WORLD not in facts.statements and "://" not in facts.statements:
        from memlm.data.questions.facts import read_facts  # imports torch

        stated = read_facts(expand(facts.statements, "questions.facts.statements", None), questions)
        return Counted(len(select(stated, located, report=said.append)), (*said, *conflict_lines(questions)))
    if facts.statements:
        chosen = select(sorted({question.fact_id for question in questions}), located, report=said.append)
        return Counted(len(chosen), (*said, *conflict_lines(questions)))
    questions = statable(select(questions, located, report=said.append), located, report=said.append)
    return Counted(
        len(questions), (*said, *kind_lines(questions, rephrased=facts.rephrased), *conflict_lines(questions))
    )


def _count_of_the_world(config: Config) -> Counted:
    """Count the facts of a world that is not written yet: drawing it from its seed takes a
    moment."""
    assert config.world is not None
    world = World(config.world)
    number = len({numbered_fact(question.id) or question.id for question in world.questions(world.new)})
    source: FactsConfig = config.questions.facts
    left = max(0, number - source.skip)
    return Counted(min(left, source.num_questions) if source.num_questions else left)


def _count_documents(documents: DocumentsConfig) -> Counted:
    path = expand(documents.path, "questions.documents.path", None)
    asked = expand(documents.questions, "questions.documents.questions", None)
    if "://" in path or "://" in asked:
        return Counted(None, ("files on S3 or the hub are counted when a run reads them",))
    from memlm.data.documents.documents import read_document_questions, read_titled_documents  # imports torch

    said: list[str] = []
    there, empty = read_titled_documents(path, report=said.append)
    learned = there[: documents.num_documents or None]
    chunks = sum(math.ceil(TOKENS_PER_WORD * len(each.text.split()) / documents.chunk_tokens) for each in learned)
    notes = (f"{len(read_document_questions(asked))} questions about them", *said, *empty)
    return Counted(len(learned), notes, num_chunks=chunks)
