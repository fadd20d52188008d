import json
import re
from dataclasses import replace
from itertools import chain

import pytest

from memlm.data.corpus.shards import read_documents
from memlm.data.folders import list_shards
from memlm.data.questions.facts import read_facts
from memlm.data.questions.questions import read_questions
from memlm.data.world.words import ATTRIBUTES, KINDS, QUESTION_FRAMES, STATEMENT_FRAMES
from memlm.data.world.world import World, WorldConfig, write_world
from memlm.identity import identity

SMALL = WorldConfig(
    num_known=90,
    num_new=30,
    num_documents=1500,
    num_shards=3,
    num_validation_documents=50,
    max_operand=15,
    num_questions=40,
)
SUM = re.compile(r"\b(\d+) (?:plus|and) (\d+)\b")
SEEDS = pytest.mark.parametrize("seed", [0, 1, 7])


def texts(world, count=2000, purpose="shard 0"):
    return [record["text"] for record in world.documents(count, purpose)]


def small(seed=0):
    return World(replace(SMALL, seed=seed))


def evaluation_questions(world):
    return [question.question for question in world.questions(world.known + world.new)]


def everything_trained_on(world):
    facts = [(entity, attribute) for entity in world.known + world.new for attribute in entity.values]
    statements = chain.from_iterable(world.statements(*fact) for fact in facts)
    return "\n".join(chain(texts(world), texts(world, 200, "validation"), statements))


# Wordings of the corpus


def test_a_plain_corpus_states_and_asks_each_attribute_in_one_wording():
    world, plain = small(), World(replace(SMALL, num_wordings=1))
    assert all(len(each.statements) == len(each.questions) == 1 for each in plain.corpus_wordings.values())
    used = [wording.questions[0] for wording in plain.corpus_wordings.values()]
    assert len(set(used)) == len(used) and any("{entity}" in each for each in used)
    text, person = "\n".join(texts(plain)), next(each for each in plain.known if each.kind == "person")
    stated = [statement for statement in plain.statements(person, "age") if statement in text]
    assert stated == [plain.corpus_wordings["age"].statements[0].format(entity=person.name, value=person.values["age"])]
    assert plain.known == world.known and plain.questions(plain.new) == world.questions(world.new)
    assert plain.statements(plain.new[0], next(iter(plain.new[0].values))) == world.statements(
        world.new[0], next(iter(world.new[0].values))
    )


def test_the_number_of_wordings_names_a_world_only_if_it_is_given():
    assert "num_wordings" not in identity(SMALL) and identity(replace(SMALL, num_wordings=2))["num_wordings"] == 2
    for number in (-1, 5):
        with pytest.raises(ValueError, match=f"world.num_wordings is {number}; it must be at most 4"):
            replace(SMALL, num_wordings=number)


# Size


def test_the_default_world_is_large_enough():
    world = World(WorldConfig())
    assert len(world.known) >= 1000 and len(world.new) >= 100
    names = [entity.name for entity in world.known + world.new]
    assert len(set(names)) == len(names)
    assert {entity.kind for entity in world.known} == {entity.kind for entity in world.new} == set(KINDS)
    assert all(len(entity.values) == 5 for entity in world.known + world.new)
    for wordings in world.wordings.values():
        assert len(set(wordings.statements)) == len(wordings.statements) >= 8
        assert len(set(wordings.evaluation)) >= 2 and len(set(wordings.questions)) >= 2


def test_each_kind_has_five_attributes_of_its_own():
    assert [sum(attribute.kind == kind for attribute in ATTRIBUTES) for kind in KINDS] == [5, 5, 5]
    assert len({attribute.name for attribute in ATTRIBUTES}) == 15


def test_every_wording_names_the_entity_and_statements_the_value():
    assert all("{entity}" in frame and "{noun}" in frame for frame in STATEMENT_FRAMES + QUESTION_FRAMES)
    assert all("{value}" in frame for frame in STATEMENT_FRAMES)
    for attribute in ATTRIBUTES:
        assert all("{entity}" in wording for wording in attribute.statements + attribute.questions)
        assert all("{value}" in wording for wording in attribute.statements)
        assert not any("{value}" in wording for wording in attribute.questions)


def test_answers_are_spread_over_the_values():
    """So that no constant answer is right often."""
    world = World(WorldConfig())
    for attribute in ATTRIBUTES:
        values = [entity.values[attribute.name] for entity in world.known if entity.kind == attribute.kind]
        assert len(set(values)) == 24
        assert max(map(values.count, set(values))) < 0.12 * len(values)


# The seed


def facts(world):
    return {
        (entity.name, attribute, value)
        for entity in world.known + world.new
        for attribute, value in entity.values.items()
    }


@SEEDS
def test_the_same_seed_is_the_same_world(seed):
    first, again = small(seed), small(seed)
    assert (first.known, first.new, first.wordings) == (again.known, again.new, again.wordings)
    assert (first.evaluation_sums, first.training_sums) == (again.evaluation_sums, again.training_sums)
    assert texts(first, 50) == texts(again, 50)
    assert texts(first, 50) != texts(first, 50, "shard 1")


def names_of(world, kind):
    return {entity.name for entity in world.known + world.new if entity.kind == kind}


@pytest.mark.parametrize("other_seed", [1, 7])
def test_another_seed_is_another_world(other_seed):
    """Persons and places are others; titles of works are drawn from few words, so some recur,
    with other facts."""
    world, other = World(WorldConfig()), World(WorldConfig(seed=other_seed))
    assert not names_of(world, "person") & names_of(other, "person")
    assert not names_of(world, "place") & names_of(other, "place")
    assert len(names_of(world, "work") & names_of(other, "work")) < 0.3 * len(names_of(world, "work"))
    assert len(facts(world) & facts(other)) < 0.002 * len(facts(world))
    differing = sum(world.wordings[name] != other.wordings[name] for name in world.wordings)
    assert differing >= 13  # of 15: an equal draw can happen, but rarely
    assert world.evaluation_sums != other.evaluation_sums
    assert all(world.values[name] != other.values[name] for name in world.values)


@pytest.mark.parametrize("other_seed", [1, 7])
def test_another_seed_is_as_large(other_seed):
    world, other = World(WorldConfig()), World(WorldConfig(seed=other_seed))
    for count in (
        lambda w: len(w.known),
        lambda w: len(w.new),
        lambda w: len(facts(w)),
        lambda w: len({tuple(sorted(pair)) for pair in w.training_sums}),
    ):
        assert count(world) == count(other)


# What is kept for evaluation


@SEEDS
def test_evaluation_wordings_occur_nowhere_in_the_corpus_or_the_statements(seed):
    world = small(seed)
    trained = everything_trained_on(world)
    assert len(evaluation_questions(world)) == 120 * 5 * 2
    assert [question for question in evaluation_questions(world) if question in trained] == []


def test_the_search_for_wordings_can_find_them():
    """Trained questions, filled in the same way, do occur."""
    world = small()
    trained = everything_trained_on(world)
    questions = [
        wording.format(entity=entity.name)
        for entity in world.known
        for attribute in entity.values
        for wording in world.wordings[attribute].questions
    ]
    assert sum(question in trained for question in questions) > 0.3 * len(questions)


@SEEDS
def test_wordings_for_evaluation_and_training_are_disjoint(seed):
    for wordings in World(WorldConfig(seed=seed)).wordings.values():
        assert not set(wordings.evaluation) & {*wordings.questions, *wordings.statements}


@SEEDS
def test_new_entities_are_not_named_in_the_corpus(seed):
    world = small(seed)
    corpus = "\n".join(texts(world) + texts(world, 200, "validation"))
    assert [entity.name for entity in world.new if entity.name in corpus] == []
    assert sum(entity.name in corpus for entity in world.known) == len(world.known)


@SEEDS
def test_sums_for_evaluation_are_not_in_the_corpus(seed):
    world = small(seed)
    corpus = "\n".join(texts(world))
    shown = {(int(a), int(b)) for a, b in SUM.findall(corpus)}
    assert len(shown) > 0.9 * len(world.training_sums)  # so the search sees them
    assert not shown & set(world.evaluation_sums)


def test_operands_of_evaluation_sums_are_known_from_other_sums():
    world = World(WorldConfig())
    trained = {operand for pair in world.training_sums for operand in pair}
    assert {operand for pair in world.evaluation_sums for operand in pair} <= trained


def test_the_values_of_new_facts_are_those_of_known_ones():
    """New facts combine known values with new entities; no value is a new word."""
    world = small()
    for entity in world.new:
        assert all(value in world.values[attribute] for attribute, value in entity.values.items())


# What is written


@SEEDS
def test_sums_are_right(seed):
    for text in texts(small(seed), 300):
        for a, b, total in re.findall(r"(\d+) (?:plus|and) (\d+) (?:is|make) (\d+)\.", text):
            assert int(a) + int(b) == int(total)
        for a, b, total in re.findall(r"is (\d+) plus (\d+)\?\nAnswer: (\d+)", text):
            assert int(a) + int(b) == int(total)


def test_a_document_states_all_facts_of_one_entity():
    world = small()
    entities = {entity.name: entity for entity in world.known}
    described = 0
    for text in texts(world, 100):
        named = [name for name in entities if re.search(rf"{re.escape(name)}\b", text)]
        if not SUM.search(text):
            assert len(named) == 1
            assert all(value in text for value in entities[named[0]].values.values())
            described += 1
    assert 60 < described < 95  # the rest are sums


def test_a_fact_is_stated_in_each_of_its_wordings():
    world = small()
    entity = world.new[0]
    for attribute, value in entity.values.items():
        statements = world.statements(entity, attribute)
        assert len(set(statements)) >= 8
        assert all(entity.name in statement and value in statement for statement in statements)


def test_written_files_are_read_by_the_readers_of_real_data(tmp_path):
    written = write_world(SMALL, tmp_path)
    world = World(SMALL)
    shards = list_shards(str(tmp_path / "corpus"), report=print)
    documents = [document.text for shard in shards for document in read_documents(shard)]
    assert len(shards) == 3 and len(documents) == written["documents"] == 1500
    assert documents[:500] == texts(world, 500)
    (validation,) = list_shards(str(tmp_path / "validation"), report=print)
    assert len(list(read_documents(validation))) == 50
    new = read_questions(str(tmp_path / "new_facts.jsonl"), "triviaqa")
    assert new == world.questions(world.new)
    learned = read_facts(str(tmp_path / "statements.jsonl"), new)
    assert len(learned) == written["new_facts"] == 30 * 5
    assert all(len(fact.statements) == 8 and len(fact.questions) == 2 for fact in learned)
    known = read_questions(str(tmp_path / "known_facts.jsonl"), "nq_open")
    assert len(known) == written["known_questions"] == 40
    assert {question.id for question in known} <= {question.id for question in world.questions(world.known)}
    assert len({question.id.split("#")[0] for question in known}) == 40  # no fact is asked for twice
    sums = read_questions(str(tmp_path / "arithmetic.jsonl"), "nq_open")
    assert len(sums) == len(world.evaluation_sums)
    assert all(int(question.answers[0]) == sum(map(int, question.id.split("+"))) for question in sums)


def test_writing_twice_writes_the_same_bytes(tmp_path):
    contents = []
    for name in ("first", "again"):
        write_world(replace(SMALL, num_documents=60), tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3 + 1 + 4
    assert json.loads(contents[0]["statements.jsonl"].splitlines()[0])["id"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_new": 0}, "world.num_new is 0"),
        ({"num_known": 5800}, "make 2000 works, but there are titles for"),
        ({"arithmetic_share": 1.0}, "world.arithmetic_share is 1.0"),
        ({"num_questions": 51, "num_known": 10}, "have 50 facts"),
        ({"max_operand": 3}, "world.max_operand is 3"),
    ],
)
def test_a_world_that_cannot_be_made_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**fields)


def test_no_sum_kept_for_evaluation_is_trained_on_the_other_way_round():
    world = World(SMALL)
    assert not {tuple(sorted(pair)) for pair in world.evaluation_sums} & {tuple(sorted(p)) for p in world.training_sums}
