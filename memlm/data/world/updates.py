"""Updates of known facts of the generated world: one attribute of each known entity gets another of
the attribute's values.

Stated in the wordings that may be trained on, and asked in the wordings kept for evaluation, like
new facts. Neighbours are known facts that no update changes: other attributes of the same subject,
and the same attribute of other subjects. Facts that `known_facts` asks about are not updated, so
that this set stays true.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from random import Random

from memlm.data.config import UpdatesConfig
from memlm.data.questions.records import Fact, Question, Update
from memlm.data.world.world import NUM_ATTRIBUTES, Entity, World, WorldConfig


def updates_of(config: WorldConfig, updates: UpdatesConfig) -> tuple[list[Fact], list[Update]]:
    """The facts with their new answers, and for each what it replaces and its neighbours. Raises
    ValueError if an entity has too few other facts, or if known_facts asks about every fact."""
    if updates.num_neighbours >= NUM_ATTRIBUTES:
        raise ValueError(
            f"questions.updates.num_neighbours is {updates.num_neighbours}; it must be at most {NUM_ATTRIBUTES - 1}, the number of other facts "
            "that an entity of the generated world has"
        )
    world = World(config)
    random = world.random("updates")
    attributes = _updated_attributes(world, random)
    neighbours = _neighbours(world, attributes, random, updates.num_neighbours)
    facts, changes = [], []
    for entity in (entity for entity in world.known if entity.name in attributes):
        attribute, fact_id = attributes[entity.name], f"{entity.name}/{attributes[entity.name]}"
        old = entity.values[attribute]
        new = random.choice([value for value in world.values[attribute] if value != old])
        updated = replace(entity, values={attribute: new})
        questions = tuple(replace(question, fact=fact_id) for question in world.questions([updated]))
        facts.append(Fact(id=fact_id, statements=tuple(world.statements(updated, attribute)), questions=questions))
        same_subject, same_relation = neighbours[entity.name]
        changes.append(Update(fact=fact_id, replaces=old, same_subject=same_subject, same_relation=same_relation))
    return facts, changes


def _updated_attributes(world: World, random: Random) -> dict[str, str]:
    """For each entity with a fact that known_facts does not ask about, the attribute that is
    updated."""
    asked = {question.id.rpartition("#")[0] for question in world.known_questions()}
    chosen = {}
    for entity in world.known:
        free = [attribute for attribute in entity.values if f"{entity.name}/{attribute}" not in asked]
        if free:
            chosen[entity.name] = random.choice(free)
    if not chosen:
        raise ValueError(
            f"world.num_questions is {world.config.num_questions}, so known_facts asks about every known fact and none is left to update; lower it"
        )
    return chosen


Neighbours = tuple[tuple[Question, ...], tuple[Question, ...]]


def _neighbours(world: World, updated: dict[str, str], random: Random, count: int) -> dict[str, Neighbours]:
    """By entity, questions about `count` facts of the same subject and `count` of the same
    relation. Where there are enough subjects, no fact has the same relation as two updates."""
    others = {attribute: _Deck(_subjects(world, updated, attribute), random) for attribute in world.wordings}
    found = {}
    for entity in (entity for entity in world.known if entity.name in updated):
        kept = [attribute for attribute in entity.values if attribute != updated[entity.name]]
        same_subject = [(entity, attribute) for attribute in random.sample(kept, count)]
        same_relation = [(other, updated[entity.name]) for other in others[updated[entity.name]].deal(count)]
        found[entity.name] = (_ask(world, same_subject, random), _ask(world, same_relation, random))
    return found


def _subjects(world: World, updated: dict[str, str], attribute: str) -> list[Entity]:
    """The known entities with this attribute, for which it is not updated."""
    return [entity for entity in world.known if attribute in entity.values and updated.get(entity.name) != attribute]


class _Deck:
    """Entities dealt in random order; begun anew when they run out."""

    def __init__(self, entities: Sequence[Entity], random: Random) -> None:
        self.entities, self.random = list(entities), random
        self.left: list[Entity] = []

    def deal(self, count: int) -> list[Entity]:
        """`count` different entities, or all if there are fewer."""
        count = min(count, len(self.entities))
        if len(self.left) < count:
            self.left = self.random.sample(self.entities, len(self.entities))
        dealt, self.left = self.left[:count], self.left[count:]
        return dealt


def _ask(world: World, facts: Sequence[tuple[Entity, str]], random: Random) -> tuple[Question, ...]:
    """One question about each fact, in one of its evaluation wordings."""
    asked = []
    for entity, attribute in facts:
        only = replace(entity, values={attribute: entity.values[attribute]})
        question = random.choice(world.questions([only]))
        asked.append(replace(question, fact=question.id.rpartition("#")[0]))
    return tuple(asked)


def content_of(facts: Sequence[Fact], updates: Sequence[Update]) -> bytes:
    """The content of the updates, for digests."""
    return json.dumps([*map(asdict, facts), *map(asdict, updates)]).encode()
