from dataclasses import replace

import pytest

from memlm.data.config import UpdatesConfig
from memlm.data.world.updates import content_of, updates_of
from memlm.data.world.world import World, WorldConfig
from tests.data.world.test_world import SEEDS, SMALL, texts


def small(seed=0, **settings):
    return updates_of(replace(SMALL, seed=seed), UpdatesConfig(**settings))


def known_values(seed):
    return {
        f"{entity.name}/{attribute}": value
        for entity in World(replace(SMALL, seed=seed)).known
        for attribute, value in entity.values.items()
    }


@SEEDS
def test_an_update_gives_a_known_fact_another_value_of_its_attribute(seed):
    world, known = World(replace(SMALL, seed=seed)), known_values(seed)
    facts, updates = small(seed)
    assert len(facts) == len(updates) == len({fact.id.partition("/")[0] for fact in facts}) > 80
    for fact, update in zip(facts, updates, strict=True):
        assert fact.id == update.fact
        assert update.replaces == known[fact.id]
        ((new,),) = {question.answers for question in fact.questions}
        assert new != update.replaces
        assert new in world.values[fact.id.rpartition("/")[2]]
        assert all(new in statement for statement in fact.statements)


@SEEDS
def test_updates_are_asked_in_wordings_that_nothing_is_trained_on(seed):
    facts, updates = small(seed)
    trained = "\n".join(texts(World(replace(SMALL, seed=seed)), 2000))
    trained += "\n".join(statement for fact in facts for statement in fact.statements)
    neighbours = [question for update in updates for question in (*update.same_subject, *update.same_relation)]
    asked = [question for fact in facts for question in fact.questions] + neighbours
    assert [question for question in asked if question.question in trained] == []
    assert {len(fact.questions) for fact in facts} == {2}


@SEEDS
@pytest.mark.parametrize("num_neighbours", [1, 4])
def test_neighbours_are_true_facts_that_no_update_changes(seed, num_neighbours):
    known, (facts, updates) = known_values(seed), small(seed, num_neighbours=num_neighbours)
    changed = {fact.id for fact in facts}
    for update in updates:
        subject, _, relation = update.fact.rpartition("/")
        for question in (*update.same_subject, *update.same_relation):
            assert question.fact_id not in changed
            assert question.answers == (known[question.fact_id],)
        near = [question.fact_id.rpartition("/") for question in update.same_subject]
        assert {name for name, _, _ in near} == {subject}
        assert len({attribute for _, _, attribute in near} - {relation}) == num_neighbours
        far = [question.fact_id.rpartition("/") for question in update.same_relation]
        assert {attribute for _, _, attribute in far} == {relation}
        assert len({name for name, _, _ in far} - {subject}) == num_neighbours


@SEEDS
def test_the_known_facts_that_measure_forgetting_stay_true(seed):
    held_out = {question.id.rpartition("#")[0] for question in World(replace(SMALL, seed=seed)).known_questions()}
    assert held_out.isdisjoint(fact.id for fact in small(seed)[0])


def test_in_the_default_world_every_entity_has_an_update_and_no_neighbour_is_shared():
    facts, updates = updates_of(WorldConfig(), UpdatesConfig())
    assert len(facts) == 1000
    near = [question.fact_id for update in updates for question in update.same_relation]
    assert len(near) == len(set(near)) == 2000


def test_the_seed_of_the_world_decides_the_updates():
    assert content_of(*small(1)) == content_of(*small(1)) != content_of(*small(2))


def test_a_world_without_a_fact_to_update_is_refused():
    with pytest.raises(ValueError, match=r"world.num_questions is 450, so known_facts asks about every known fact"):
        updates_of(replace(SMALL, num_questions=450), UpdatesConfig())


def test_more_neighbours_than_an_entity_has_facts_are_refused():
    with pytest.raises(ValueError, match=r"questions.updates.num_neighbours is 5; it must be at most 4"):
        small(num_neighbours=5)
