from memlm.data.questions.records import Fact, Question, Update
from memlm.evaluation.updates import questions_of_updates


def question(fact, answer, number=0):
    return Question(id=f"{fact}#{number}", question=f"{fact}? ({number})", answers=(answer,), fact=fact)


def updated(fact, new):
    return Fact(id=fact, statements=(f"{fact}: {new}",), questions=(question(fact, new), question(fact, new, 1)))


def update(fact, old, subject, relation):
    return Update(
        fact=fact,
        replaces=old,
        same_subject=tuple(question(each, "as before") for each in subject),
        same_relation=tuple(question(each, "as before") for each in relation),
    )


FACTS = [updated("Ada/town", "Rome"), updated("Bo/town", "Oslo")]
UPDATES = {
    each.fact: each
    for each in (
        update("Ada/town", "Bern", ["Ada/job", "Ada/pet"], ["Cleo/town", "Bo/town"]),
        update("Bo/town", "Kiel", ["Bo/job"], ["Cleo/town", "Dag/town"]),
        update("Eva/town", "York", ["Eva/job"], ["Finn/town"]),
    )
}


def test_old_answers_are_asked_with_the_questions_of_the_new_ones():
    asked = questions_of_updates(FACTS, UPDATES)["old_answers"]
    assert [each.question for each in asked] == [each.question for fact in FACTS for each in fact.questions]
    assert [each.answers for each in asked] == [("Bern",), ("Bern",), ("Kiel",), ("Kiel",)]


def test_neighbours_are_those_of_the_learned_facts_once_each_and_none_that_they_change():
    sets = questions_of_updates(FACTS, UPDATES)
    assert [each.fact_id for each in sets["same_subject"]] == ["Ada/job", "Ada/pet", "Bo/job"]
    assert [each.fact_id for each in sets["same_relation"]] == ["Cleo/town", "Dag/town"]
    assert {each.answers for name in ("same_subject", "same_relation") for each in sets[name]} == {("as before",)}
