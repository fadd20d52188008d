"""The question sets that `prepare_corpus` hands to the trials, as an artifact of their own: the
facts to learn and the held-out questions.

No checkpoint depends on it, so several streams can be learned from one pretrained model.

    questions/   facts.jsonl  held_out/<name>.jsonl  tasks.json  [examples.jsonl]  [updates.jsonl]
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from memlm import storage
from memlm.data.questions.facts import Fact
from memlm.data.questions.files import read_saved_set, record_of, write_set
from memlm.data.questions.records import Question, Record, TaskChoice, Update
from memlm.kinds import EXAMPLES_FILE, FACTS_FILE, HELD_OUT_FOLDER, QUESTIONS_KIND, TASKS_FILE, UPDATES_FILE


def write_question_sets(
    folder: Path,
    facts: Sequence[Fact],
    held_out: Mapping[str, Sequence[Record]],
    tasks: Mapping[str, TaskChoice] = MappingProxyType({}),
    updates: Sequence[Update] = (),
    examples: Sequence[Question] = (),
) -> None:
    """`updates` are empty for facts that replace nothing, `examples` for sets that share none."""
    write_fact_lines(folder / FACTS_FILE, facts)
    if examples:
        write_set(str(folder / EXAMPLES_FILE), examples)
    if updates:
        (folder / UPDATES_FILE).write_text("".join(json.dumps(asdict(update)) + "\n" for update in updates))
    for name, questions in held_out.items():
        write_set(str(folder / HELD_OUT_FOLDER / f"{name}.jsonl"), questions)
    (folder / TASKS_FILE).write_text(json.dumps({name: asdict(task) for name, task in tasks.items()}))


def write_fact_lines(path: Path, facts: Sequence[Fact]) -> None:
    with open(path, "w") as file:
        for fact in facts:
            file.write(json.dumps(asdict(fact)) + "\n")


def read_fact_lines(path: Path) -> list[Fact]:
    """The facts that write_fact_lines wrote."""
    with open(path) as file:
        records = [json.loads(line) for line in file]
    return [
        Fact(
            id=record["id"],
            statements=tuple(record["statements"]),
            questions=tuple(_question_of(question) for question in record["questions"]),
        )
        for record in records
    ]


@dataclass(frozen=True)
class QuestionSets:
    """An opened questions artifact."""

    folder: Path
    digest: str

    def facts(self) -> list[Fact]:
        return read_fact_lines(self.folder / FACTS_FILE)

    def held_out(self) -> dict[str, list[Record]]:
        files = sorted((self.folder / HELD_OUT_FOLDER).glob("*.jsonl"))
        return {file.stem: read_saved_set(str(file)) for file in files}

    def tasks(self) -> dict[str, TaskChoice]:
        """How each held-out set is asked."""
        written = json.loads((self.folder / TASKS_FILE).read_text())
        return {name: TaskChoice(**choice) for name, choice in written.items()}

    def examples(self) -> list[Question]:
        """Solved examples that all sets with short answers share."""
        path = self.folder / EXAMPLES_FILE
        return [record for record in read_saved_set(str(path)) if isinstance(record, Question)] if path.exists() else []

    def updates(self) -> dict[str, Update]:
        """By id of a fact, what it replaces; empty if the facts are new."""
        path = self.folder / UPDATES_FILE
        lines = path.read_text().splitlines() if path.exists() else []
        return {update.fact: update for update in map(_update_of, map(json.loads, lines))}


def _question_of(values: Mapping[str, Any]) -> Question:
    question = record_of(values)
    assert isinstance(question, Question), "facts are asked by questions with answers"
    return question


def _update_of(values: Mapping[str, Any]) -> Update:
    return Update(
        fact=values["fact"],
        replaces=values["replaces"],
        same_subject=tuple(map(_question_of, values["same_subject"])),
        same_relation=tuple(map(_question_of, values["same_relation"])),
    )


def open_question_sets(uri: str, *, digest: str | None = None) -> QuestionSets:
    """Open question sets; with a digest, only those with that digest. Raises StorageError if they
    do not exist."""
    found = storage.read_manifest(uri, QUESTIONS_KIND, digest=digest).digest
    return QuestionSets(storage.open_artifact(uri, kind=QUESTIONS_KIND, digest=found), found)
