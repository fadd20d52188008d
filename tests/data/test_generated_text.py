"""The texts that memlm generates, against digests stored in generated_text.json: a change of code
or of word lists changes no world and no statement unless that is its purpose.

Store new digests with `python -m tests.data.test_generated_text`, and name the changed entries in
the commit.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pytest

from memlm.data.questions.questions import read_questions
from memlm.data.questions.records import Question
from memlm.data.stating.language import reason_not_statable
from memlm.data.stating.relations import RELATIONS
from memlm.data.stating.statements import wordings_of
from memlm.data.world.world import World, WorldConfig

STORED = Path(__file__).with_name("generated_text.json")
REAL = Path(os.environ.get("MEMLM_DATA", "")) / "qa"
WORLDS = {
    "default": WorldConfig(),
    "seed 7": WorldConfig(seed=7),
    "small, seed 1": WorldConfig(seed=1, num_known=90, num_new=30, num_documents=60, max_operand=15, num_questions=40),
}
REAL_FILES = {
    "triviaqa.jsonl": "triviaqa",
    "nq_open.jsonl": "nq_open",
    "entityquestions_dev.jsonl.zst": "entityquestions",
}
ASKED = (
    *(("Who founded The Baffler?", "Thomas Frank"), ("Who was elected president in 1990?", "Lech Wałęsa")),
    *(("What did Alexander Fleming discover?", "penicillin"), ("What is the capital of Norway?", "Oslo")),
    *(("What was the name of the ship?", "the Beagle"), ("Which boxer famously said that?", "Ali")),
    *(("In which country was Rita Ora born", "Kosovo"), ("To whom was it given?", "Ada Lovelace")),
    *(("Which year did Sidney Abbott join the club?", "1969"), ("Who did she marry in 1990?", "Bo")),
    *(("Where was Luis Díaz born?", "Nice"), ("when did the song push it come out", "March 8, 1987")),
    *(("Where does the river flow?", "in Peru"), ("Where is the museum located?", "Bern")),
    *(("How many casinos are in Atlantic City?", "eleven"), ("How much did it cost?", "12")),
    *(("How many planets are there in the system?", "8"), ("How many goals did Pelé score?", "1281")),
    *(("The bacteria is responsible for what disease?", "Botulism"), ("As a teen, who did she admire?", "Madonna")),
    *(("Released in 1990, who wrote Goodfellas?", "Pileggi"), ("Name the capital of Peru", "Lima")),
    *(('"Which film ends with the line ""Kevin!""?"', "Home Alone"), ("roman god of the underworld", "Pluto")),
    *(("Who is famous for his moustache?", "Dalí"), ("What is it called?", "a folly"), ("Who?", "Pluto")),
)
"""Questions of every kind with their answers."""


def digest(texts: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(json.dumps(text, ensure_ascii=False) for text in texts).encode()).hexdigest()


def text_of_world(config: WorldConfig) -> Iterable[object]:
    world = World(config)
    for entity in world.known + world.new:
        yield asdict(entity)
        yield [world.statements(entity, attribute) for attribute in entity.values]
    yield [asdict(question) for question in world.questions(world.new)]
    yield [asdict(question) for question in world.known_questions() + world.arithmetic()]
    for purpose in ("shard 0", "validation"):
        yield from world.documents(300, purpose)


def text_of_question(question: Question) -> list[object]:
    wordings = wordings_of(question)
    return [question.id, wordings.kind, *wordings.statements, *wordings.questions, reason_not_statable(question)]


def digests_by_template(questions: Iterable[Question]) -> dict[str, str]:
    """One digest for the questions of each relation, and for those of every other kind."""
    texts: dict[str, list[object]] = {}
    for question in questions:
        kind = wordings_of(question).kind
        texts.setdefault(question.relation if kind == "relation" else kind, []).append(text_of_question(question))
    return {template: digest(found) for template, found in sorted(texts.items())}


def made_questions() -> Iterable[Question]:
    for number, (asked, answer) in enumerate(ASKED):
        yield Question(id=str(number), question=asked, answers=(answer,))
    for name, relation in RELATIONS.items():
        yield Question(id=name, question=relation.asked.format(s="Ada"), answers=("Lima Inc.",), relation=name)


def real_questions(file: str) -> list[Question]:
    return read_questions(str(REAL / file), REAL_FILES[file])


def stored() -> dict[str, dict[str, str]]:
    read: dict[str, dict[str, str]] = json.loads(STORED.read_text())
    return read


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_is_unchanged(name):
    assert digest(text_of_world(WORLDS[name])) == stored()["worlds"][name]


def test_the_statements_of_made_questions_are_unchanged():
    assert digests_by_template(made_questions()) == stored()["made questions"]


@pytest.mark.skipif("MEMLM_DATA" not in os.environ, reason="MEMLM_DATA names no folder of real questions")
@pytest.mark.parametrize("file", REAL_FILES)
def test_the_statements_of_real_questions_are_unchanged(file):
    assert digests_by_template(real_questions(file)) == stored()[file]


def store() -> None:
    found = {
        "worlds": {name: digest(text_of_world(config)) for name, config in WORLDS.items()},
        "made questions": digests_by_template(made_questions()),
        **{file: digests_by_template(real_questions(file)) for file in REAL_FILES},
    }
    STORED.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    store()
