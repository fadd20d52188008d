"""What does `prepare_corpus` hand to the trials? The facts to learn and the held-out questions, as an artifact of their own.

No checkpoint depends on it, so several streams can be learned from one pretrained model.

    questions/   facts.jsonl  held_out/<name>.jsonl
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from memlm import storage
from memlm.data.facts import Fact
from memlm.data.questions import Question, read_questions, write_nq_open

KIND = "questions"


def write_question_sets(folder: Path, facts: Sequence[Fact], held_out: Mapping[str, Sequence[Question]]) -> None:
    write_fact_lines(folder / "facts.jsonl", facts)
    for name, questions in held_out.items():
        write_nq_open(str(folder / "held_out" / f"{name}.jsonl"), questions)


def write_fact_lines(path: Path, facts: Sequence[Fact]) -> None:
    with open(path, "w") as file:
        for fact in facts:
            file.write(json.dumps(asdict(fact)) + "\n")


def read_fact_lines(path: Path) -> list[Fact]:
    """What write_fact_lines wrote."""
    with open(path) as file:
        records = [json.loads(line) for line in file]
    return [
        Fact(
            id=record["id"],
            statements=tuple(record["statements"]),
            questions=tuple(
                Question(**{**question, "answers": tuple(question["answers"])}) for question in record["questions"]
            ),
        )
        for record in records
    ]


@dataclass(frozen=True)
class QuestionSets:
    """An opened questions artifact."""

    folder: Path
    digest: str

    def facts(self) -> list[Fact]:
        return read_fact_lines(self.folder / "facts.jsonl")

    def held_out(self) -> dict[str, list[Question]]:
        files = sorted((self.folder / "held_out").glob("*.jsonl"))
        return {file.stem: read_questions(str(file), "nq_open") for file in files}


def open_question_sets(uri: str) -> QuestionSets:
    return QuestionSets(storage.open_artifact(uri, kind=KIND), storage.read_manifest(uri, KIND).digest)
