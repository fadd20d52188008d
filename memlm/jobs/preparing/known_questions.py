"""What the model before learning knows: the questions of a source that it answers right, asked once
behind solved examples.

known-<digest>/answers.jsonl   id, answer, right: one line per question asked
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.config import QuestionSetConfig
from memlm.data.corpus.shards import read_records, write_shard
from memlm.data.paths import expand
from memlm.data.questions.files import record_of
from memlm.data.questions.questions import QuestionError, require_questions, select
from memlm.data.questions.records import Question, Record
from memlm.data.questions.sources import source_content
from memlm.data.writers.interface import Writer
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.question_answering import after_examples
from memlm.evaluation.tasks import default_task, find_task
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.preparing.base_model import read_base
from memlm.jobs.preparing.writing_units import write_in_units
from memlm.kinds import ANSWERS_FILE
from memlm.run import run_of

Report = Callable[[str], object]


def known_of(config: Config, source: QuestionSetConfig, world: Path | None) -> Artifact:
    """The artifact that says what is known of a source, with its inputs as they are now."""

    def digest(path: str, field: str) -> str:
        return hashlib.sha256(source_content(expand(path, field, world))).hexdigest()

    shown = config.questions.examples
    made = artifacts.known(
        config,
        source,
        questions=digest(source.path, "a question file"),
        examples=digest(shown.path, "questions.examples.path") if shown else "",
    )
    return made.pinned()


def choose_by_answers(
    config: Config,
    source: QuestionSetConfig,
    records: Sequence[Record],
    examples: Sequence[Question],
    world: Path | None,
    *,
    report: Report,
) -> list[Record]:
    """Those of a source's records that it selects by what the model answers, before skip and
    num_questions. The model is asked unless it was asked before."""
    questions = require_questions(source.path, records)
    asked = select(questions, replace(source, skip=0, num_questions=config.questions.known.num_asked), report=report)
    known, wanted = known_of(config, source, world), source.base_answers == "right"
    if not known.is_made():
        with alone(run_of(config).known_lease), connect(config):
            if not known.is_made():  # unless another driver made it meanwhile
                _ask_all(config, source, known, asked, examples)
    lines = [line for _, line in read_records(str(known.open() / ANSWERS_FILE))]
    right = {line["id"]: line["right"] for line in lines}
    report(f"the model answers {sum(right.values())} of {len(right)} questions right; {known.uri}")
    chosen: list[Record] = [question for question in asked if right[question.id] == wanted]
    if not chosen:
        raise QuestionError(
            f"{source.path}: the model answers {sum(right.values())} of {len(right)} questions right, so base_answers '{source.base_answers}' leaves "
            "none; raise questions.known.num_asked, or name another file"
        )
    return chosen


def _ask_all(
    config: Config, source: QuestionSetConfig, known: Artifact, asked: Sequence[Question], examples: Sequence[Question]
) -> None:
    """Ask the questions of the missing units, and write the artifact."""
    checkpoint, digest = artifacts.checkpoint(config, "dense"), known.inputs["checkpoint"]
    task = default_task(asked, source.layout)
    say(f"asking {checkpoint.uri} {len(asked)} questions of {source.path}, behind {len(examples)} examples")
    lines = write_in_units(
        config,
        Asking(config=config, uri=checkpoint.uri, digest=str(digest), task=task, examples=tuple(examples)),
        [asdict(question) for question in asked],
        folder=known.units,
        wanted={**known.identity, "inputs": dict(known.inputs)},
        revision=None,
        size=config.questions.known.questions_per_unit,
        doing="asking",
    )
    with known.write() as draft:
        write_shard(str(draft.path / ANSWERS_FILE), lines)
        draft.details.update(num_asked=len(lines), num_right=sum(line["right"] for line in lines))
    storage.delete_made(known.units)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A worker's part: the model's answers to one unit of questions."""

    config: Config
    uri: str
    digest: str
    task: str
    examples: tuple[Question, ...]

    def __call__(self, writer: Writer | None, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        reader, task = read_base(self.config, self.uri, self.digest), find_task("questions.known", self.task)
        questions = [question for question in map(record_of, items) if isinstance(question, Question)]
        evaluation = EvaluationConfig(
            max_new_tokens=self.config.questions.known.max_new_tokens, batch_size=self.config.evaluation.batch_size
        )
        with after_examples(reader, self.examples) as behind:
            measured = task.score(behind, evaluation, questions, (), None)
        return [
            {"id": question.id, "answer": answer, "right": score == 1}
            for question, answer, score in zip(questions, measured.answers, measured.items, strict=True)
        ]
