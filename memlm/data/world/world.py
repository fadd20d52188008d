"""The generated world: a small benchmark of learning against forgetting that fits a laptop, and
the default input.

People, places and works with five attributes each, drawn from `seed`: every name, value, choice
of wordings and question. Each part stands for one in Lin et al. 2025, section 5:

- corpus, for DCLM: documents about the known entities and worked sums, in DCLM's layout and shard
  format
- `new_facts`, for 1,000 TriviaQA questions to learn (in TriviaQA's format): facts of entities that
  the corpus never names, asked in wordings never trained on
- `statements`, for the paraphrases that fill a batch: the same facts, each stated in several other
  wordings
- `known_facts`, for NaturalQuestions, held out (in its format): facts of the corpus, asked in
  wordings never trained on
- `arithmetic`, for GSM8K, held out (in NaturalQuestions' format): sums whose operand pairs the
  corpus leaves out; a skill, not a memory
- the validation shard, for the likelihood of held-out text: fresh documents from the same source

The methods separate here for the paper's reason: new entities share the value vocabulary, the
syntax and the digits with what the model knows, so a dense update that writes a fact also moves
what known facts and sums run through; a slot update need not. A wording is a frame filled with
one attribute. Those kept for evaluation occur nowhere in the corpus or the statements; their
words do, and their frame does with other attributes, so understanding them is generalisation and
not a foreign language.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from memlm.data.corpus.shards import write_shard
from memlm.data.questions.files import write_nq_open, write_triviaqa
from memlm.data.questions.records import Question
from memlm.data.world.words import ATTRIBUTES, KINDS, QUESTION_FRAMES, STATEMENT_FRAMES, WORDS, Attribute
from memlm.identity import names_result

HELD_OUT_SHARE = 5
"""One in this many pairs of operands is kept for evaluation."""
NUM_ATTRIBUTES = len(ATTRIBUTES) // len(KINDS)
NUM_STATEMENTS, NUM_QUESTIONS, NUM_EVALUATION = 8, 4, 2
"""Wordings of an attribute: statements, questions, and questions kept for evaluation."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The size of the generated world. The defaults are the laptop recipe's."""

    seed: int = names_result(0)
    """Another seed is another world of the same difficulty."""
    num_known: int = names_result(1000)
    """Entities that the corpus describes."""
    num_new: int = names_result(200)
    """Entities that only the facts to learn name."""
    num_documents: int = names_result(36_000)
    num_shards: int = names_result(4)
    """Training shards; one more holds the validation documents."""
    num_validation_documents: int = names_result(400)
    arithmetic_share: float = names_result(0.25)
    """Share of documents that are worked sums."""
    max_operand: int = names_result(24)
    """Sums add two numbers from 0 to this; a fifth of the pairs is kept for evaluation."""
    num_questions: int = names_result(300)
    """Questions about known facts kept for evaluation, one per fact."""
    num_wordings: int = names_result(0, when=lambda config: config.num_wordings > 0)
    """Wordings in which the corpus states each attribute, and in which it asks for it; 0 for all, 8
    and 4. The facts to learn are stated in all. Fewer may leave words of the evaluation's wordings
    out of the corpus."""

    def __post_init__(self) -> None:
        for name in (
            "num_known",
            "num_new",
            "num_documents",
            "num_shards",
            "num_validation_documents",
            "num_questions",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"world.{name} is {getattr(self, name)}; it must be at least 1")
        num_works = (self.num_known + self.num_new) // len(KINDS)
        num_titles = len(WORDS["adjectives"]) * len(WORDS["nouns"])
        if num_works > num_titles:
            raise ValueError(
                f"world.num_known and world.num_new make {num_works} works, but there are titles for {num_titles}; lower one of them"
            )
        if not 0 <= self.num_wordings <= NUM_QUESTIONS:
            raise ValueError(
                f"world.num_wordings is {self.num_wordings}; it must be at most {NUM_QUESTIONS}, and not negative (0 takes all)"
            )
        if not 0 < self.arithmetic_share < 1:
            raise ValueError(f"world.arithmetic_share is {self.arithmetic_share}; it must lie between 0 and 1")
        if self.max_operand < 4:
            raise ValueError(
                f"world.max_operand is {self.max_operand}; below 4 there are too few sums to keep any for evaluation"
            )
        if self.num_questions > self.num_known * NUM_ATTRIBUTES:
            raise ValueError(
                f"world.num_questions is {self.num_questions}, but world.num_known = {self.num_known} entities have "
                f"{self.num_known * NUM_ATTRIBUTES} facts; lower the first or raise the second"
            )


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """The wordings of one attribute. Evaluation wordings are never trained on."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    evaluation: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Entity:
    name: str
    kind: str
    values: dict[str, str]
    """Attribute name -> value."""


class World:
    """All facts of the world of one seed, and their wordings."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        names = _Names(self.random("names"))
        self.values = {attribute.name: names.values(attribute) for attribute in ATTRIBUTES}
        self.wordings = {attribute.name: self._draw_wordings(attribute) for attribute in ATTRIBUTES}
        self.corpus_wordings = {name: self._of_corpus(name, wordings) for name, wordings in self.wordings.items()}
        entities = [
            self._draw_entity(KINDS[index % len(KINDS)], names) for index in range(config.num_known + config.num_new)
        ]
        self.known, self.new = entities[: config.num_known], entities[config.num_known :]
        # Held out as unordered pairs: a sum whose mirror is in the corpus would be half known.
        pairs = [(a, b) for a in range(config.max_operand + 1) for b in range(a, config.max_operand + 1)]
        self.random("sums").shuffle(pairs)
        held_out = len(pairs) // HELD_OUT_SHARE
        self.evaluation_sums, self.training_sums = _both_orders(pairs[:held_out]), _both_orders(pairs[held_out:])

    def random(self, purpose: str) -> Random:
        """The generator of one purpose; what another one draws does not change it."""
        return Random(f"memlm world {self.config.seed} {purpose}")

    def _draw_wordings(self, attribute: Attribute) -> Wordings:
        random = self.random(f"wordings of {attribute.name}")
        # The attribute's own verbs are always trained on, so that every word of an evaluation
        # wording has been learned.
        statement_frames = random.sample(STATEMENT_FRAMES, NUM_STATEMENTS - len(attribute.statements))
        question_frames = random.sample(QUESTION_FRAMES, NUM_QUESTIONS - len(attribute.questions) + NUM_EVALUATION)
        filled = [frame.replace("{noun}", attribute.noun) for frame in question_frames]
        return Wordings(
            statements=(
                *attribute.statements,
                *(frame.replace("{noun}", attribute.noun) for frame in statement_frames),
            ),
            questions=(*attribute.questions, *filled[NUM_EVALUATION:]),
            evaluation=tuple(filled[:NUM_EVALUATION]),
        )

    def _of_corpus(self, attribute: str, wordings: Wordings) -> Wordings:
        """The wordings that documents use."""
        number = self.config.num_wordings
        if not number:
            return wordings
        random = self.random(f"wordings of {attribute} in the corpus")
        return replace(
            wordings,
            statements=tuple(random.sample(wordings.statements, number)),
            questions=tuple(random.sample(wordings.questions, number)),
        )

    def _draw_entity(self, kind: str, names: "_Names") -> Entity:
        attributes = [attribute for attribute in ATTRIBUTES if attribute.kind == kind]
        values = {attribute.name: names.random.choice(self.values[attribute.name]) for attribute in attributes}
        return Entity(name=names.entity(kind), kind=kind, values=values)

    def statements(self, entity: Entity, attribute: str) -> list[str]:
        """A fact in every wording that may be trained on."""
        value = entity.values[attribute]
        return [wording.format(entity=entity.name, value=value) for wording in self.wordings[attribute].statements]

    def questions(self, entities: list[Entity]) -> list[Question]:
        """Every fact of the entities in every evaluation wording. The fact's id stands before
        the '#'."""
        return [
            Question(
                id=f"{entity.name}/{attribute}#{number}",
                question=wording.format(entity=entity.name),
                answers=(value,),
                relation=attribute,
            )
            for entity in entities
            for attribute, value in entity.values.items()
            for number, wording in enumerate(self.wordings[attribute].evaluation)
        ]

    def known_questions(self) -> list[Question]:
        """num_questions facts of the corpus, each asked once in one of its evaluation wordings."""
        random = self.random("questions")
        by_fact: dict[str, list[Question]] = {}
        for question in self.questions(self.known):
            by_fact.setdefault(question.id.split("#")[0], []).append(question)
        return [random.choice(by_fact[fact]) for fact in random.sample(sorted(by_fact), self.config.num_questions)]

    def arithmetic(self) -> list[Question]:
        """Sums with operand pairs that no document shows."""
        return [
            Question(id=f"{a}+{b}", question=f"What is {a} plus {b}?", answers=(str(a + b),), relation="sum")
            for a, b in self.evaluation_sums
        ]

    def documents(self, count: int, purpose: str) -> Iterator[dict[str, object]]:
        """Records in DCLM's form: all facts of one entity in random order and wordings, or a
        page of sums."""
        random = self.random(purpose)
        for number in range(count):
            is_sums = random.random() < self.config.arithmetic_share
            lines = self._sums(random) if is_sums else self._facts(random.choice(self.known), random)
            yield {"text": "\n".join(lines), "url": f"https://world.example/{self.config.seed}/{purpose}/{number}"}

    def _facts(self, entity: Entity, random: Random) -> list[str]:
        facts = list(entity.values.items())
        random.shuffle(facts)
        lines = []
        for attribute, value in facts:
            wordings = self.corpus_wordings[attribute]
            if random.random() < 0.7:
                lines.append(random.choice(wordings.statements).format(entity=entity.name, value=value))
            else:
                question = random.choice(wordings.questions).format(entity=entity.name)
                lines.append(f"Question: {question}\nAnswer: {value}")
        return lines

    def _sums(self, random: Random) -> list[str]:
        lines = []
        for _ in range(5):
            a, b = random.choice(self.training_sums)
            wording = random.choice(WORDS["sums"])
            lines.append(wording.format(a=a, b=b, sum=a + b))
        return lines


def _both_orders(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [ordered for a, b in pairs for ordered in dict.fromkeys([(a, b), (b, a)])]


class _Names:
    """Draws names that do not repeat."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.used: set[str] = set()
        self.first_names = [self._invented(2) for _ in range(60)]

    def _invented(self, num_syllables: int) -> str:
        while True:
            syllables = (
                self.random.choice(WORDS["onsets"]) + self.random.choice(WORDS["vowels"]) for _ in range(num_syllables)
            )
            name = ("".join(syllables) + self.random.choice(WORDS["codas"])).capitalize()
            if name not in self.used:
                self.used.add(name)
                return name

    def values(self, attribute: Attribute) -> list[str]:
        if attribute.words:
            return self.random.sample(WORDS[attribute.words], 24)
        return [attribute.value_frame.format(self._invented(2)) for _ in range(24)]

    def entity(self, kind: str) -> str:
        if kind == "person":
            return f"{self.random.choice(self.first_names)} {self._invented(2)}"
        if kind == "place":
            return self._invented(3)
        while True:
            title = f"The {self.random.choice(WORDS['adjectives'])} {self.random.choice(WORDS['nouns'])}"
            if title not in self.used:
                self.used.add(title)
                return title


def write_world(config: WorldConfig, directory: Path) -> dict[str, int]:
    """Write the corpus, the question files and the statements under the directory; returns how many
    of each."""
    world = World(config)
    corpus = directory / "corpus" / "global-shard_01_of_01" / "local-shard_0_of_1"
    corpus.mkdir(parents=True)
    share, rest = divmod(config.num_documents, config.num_shards)
    for shard in range(config.num_shards):
        records = world.documents(share + (shard < rest), f"shard {shard}")
        write_shard(str(corpus / f"shard_{shard:08d}_processed.jsonl.zst"), records)
    validation = directory / "validation"
    validation.mkdir()
    write_shard(
        str(validation / "shard_00000000_processed.jsonl.zst"),
        world.documents(config.num_validation_documents, "validation"),
    )
    known = world.known_questions()
    sums = world.arithmetic()
    new = world.questions(world.new)
    write_triviaqa(str(directory / "new_facts.jsonl"), new)
    write_nq_open(str(directory / "known_facts.jsonl"), known)
    write_nq_open(str(directory / "arithmetic.jsonl"), sums)
    with open(directory / "statements.jsonl", "w") as file:
        for entity in world.new:
            for attribute in entity.values:
                record = {"id": f"{entity.name}/{attribute}", "statements": world.statements(entity, attribute)}
                file.write(json.dumps(record) + "\n")
    return {"documents": config.num_documents, "new_facts": len(new) // NUM_EVALUATION, "known_questions": len(known)}
