"""Question files of every kind become the questions artifact and are read back; no cluster
needed."""

import json
from dataclasses import replace

import pytest

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.config import FactsConfig, HeldOutConfig, QuestionsConfig, UpdatesConfig
from memlm.data.corpus.config import CorpusConfig
from memlm.data.corpus.corpus import write_corpus
from memlm.data.questions.records import MultipleChoice, Question, QuestionError, TaskChoice
from memlm.data.questions.sets import open_question_sets
from memlm.data.world.updates import updates_of
from memlm.data.world.world import WorldConfig, write_world
from memlm.jobs.preparing import questions as prepare_questions
from memlm.kinds import CORPUS_KIND
from tests.support.asking import new_tokenizer


@pytest.fixture
def files(tmp_path):
    """Facts to learn, and held-out sets of three kinds."""
    sets = {
        "facts": [{"id": str(i), "question": f"Fact {i}?", "answer": ["a"]} for i in range(3)],
        "statements": [{"id": str(i), "statements": [f"It is {i}."]} for i in range(3)],
        "nq": [{"question": f"Question {i}?", "answer": ["a", "b"]} for i in range(7)],
        "problems": [{"question": f"{i} + 1?", "answer": f"Add.\n#### {i + 1}"} for i in range(4)],
        "choices": [{"ind": i, "query": f"It {i}", "choices": ["is", "was"], "gold": i % 2} for i in range(4)],
        "own": [{"ask": f"Own {i}?", "reply": {"best": "x"}} for i in range(2)],
    }
    for name, records in sets.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return {name: str(tmp_path / f"{name}.jsonl") for name in sets}


def config_of(files, storage, **changes):
    own = replace(FactsConfig(path="").fields, question="ask", answers=("reply.best",))
    held_out = {
        "nq": HeldOutConfig(name="nq", path=files["nq"], layout="nq_open"),
        "gsm8k": HeldOutConfig(name="gsm8k", path=files["problems"], layout="gsm8k", num_questions=3),
        "hellaswag": HeldOutConfig(name="hellaswag", path=files["choices"], layout="hellaswag", num_examples=1),
        "own": HeldOutConfig(name="own", path=files["own"], layout="fields", fields=own),
    }
    for name, change in changes.items():
        held_out[name] = replace(held_out[name], **change)
    return Config(
        recipe="test",
        run_name="test",
        storage=str(storage),
        world=None,
        corpus=CorpusConfig(path="none"),
        questions=QuestionsConfig(
            facts=FactsConfig(path=files["facts"], layout="nq_open", statements=files["statements"]),
            held_out=tuple(held_out.values()),
        ),
    )


def test_every_kind_of_set_is_stored_and_read_back_with_its_task(files, tmp_path):
    sets = open_question_sets(prepare_questions.run(config_of(files, tmp_path / "runs")))
    assert [fact.questions[0].question for fact in sets.facts()] == ["Fact 0?", "Fact 1?", "Fact 2?"]
    held_out = sets.held_out()
    assert {name: len(records) for name, records in held_out.items()} == {"nq": 7, "gsm8k": 3, "hellaswag": 4, "own": 2}
    assert held_out["gsm8k"][1] == Question(id="gsm8k:2", question="1 + 1?", answers=("2",), solution="Add.\n#### 2")
    assert held_out["hellaswag"][1] == MultipleChoice(id="1", query="It 1", choices=("is", "was"), gold=1)
    assert held_out["own"][0] == Question(id="fields:1", question="Own 0?", answers=("x",))
    assert sets.tasks() == {
        "nq": TaskChoice(task="nq_open"),
        "gsm8k": TaskChoice(task="gsm8k"),
        "hellaswag": TaskChoice(task="hellaswag", num_examples=1),
        "own": TaskChoice(task="questions"),
    }


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("nq", {"num_questions": 5}, "questions.held_out nq: 5 examples leave none of 5"),
        ("nq", {"task": "hellaswag"}, "questions.held_out nq: the task 'hellaswag' needs choices"),
        ("nq", {"task": "nqopen"}, "did you mean 'nq_open'"),
        ("own", {"layout": "nq_open"}, "own.jsonl:1: not a question in the layout"),
        ("nq", {"max_answer_words": 1, "path": "own"}, "does not exist"),
    ],
)
def test_sets_that_cannot_be_asked_are_refused_before_any_work(files, tmp_path, name, change, reason):
    config = config_of(files, tmp_path / "runs", **{name: change})
    with pytest.raises(ValueError, match=reason):
        prepare_questions.read_sources(config, None)


def test_left_out_records_are_reported(files, tmp_path, capsys):
    with open(files["nq"], "a") as file:
        file.write('\n{"question": "Nobody knows?", "answer": []}')
    with pytest.raises(QuestionError, match=r"nq\.jsonl:8: "):
        prepare_questions.run(config_of(files, tmp_path / "runs"))
    sets = open_question_sets(
        prepare_questions.run(config_of(files, tmp_path / "runs", nq={"max_malformed_share": 0.2}))
    )
    assert len(sets.held_out()["nq"]) == 7
    said = capsys.readouterr()
    assert "questions.held_out nq: " in said.out + said.err
    assert "nq.jsonl:8: a question without answers" in said.out + said.err


def test_a_different_file_or_task_makes_a_different_artifact(files, tmp_path):
    config = config_of(files, tmp_path / "runs")
    prepare_questions.run(config)
    with pytest.raises(ValueError, match="num_examples"):
        prepare_questions.run(config_of(files, tmp_path / "runs", nq={"num_examples": 2}))


def overlapping(config, *, remove):
    """The first fact is also asked in a held-out set, with another spelling."""
    return replace(config, questions=replace(config.questions, remove_overlap=remove))


@pytest.mark.parametrize("remove", [False, True])
def test_a_fact_that_a_held_out_set_asks_too_is_reported_and_removed_on_request(files, tmp_path, capsys, remove):
    with open(files["nq"], "a") as file:
        file.write('\n{"question": "the FACT 0", "answer": ["a"]}')
    config = overlapping(config_of(files, tmp_path / "runs"), remove=remove)
    learned = [fact.id for fact in open_question_sets(prepare_questions.run(config)).facts()]
    assert learned == (["1", "2"] if remove else ["0", "1", "2"])
    said = capsys.readouterr()
    assert "1 facts to learn are also asked in nq, the first '0'" in said.out + said.err
    assert ("left out of the facts" if remove else "--questions.remove-overlap True") in said.out + said.err


def test_sets_that_share_every_question_leave_nothing_to_learn(files, tmp_path):
    with open(files["nq"], "a") as file:
        file.writelines(f'\n{{"question": "Fact {i}?", "answer": ["a"]}}' for i in range(3))
    with pytest.raises(ValueError, match="leaves no fact to learn"):
        prepare_questions.run(overlapping(config_of(files, tmp_path / "runs"), remove=True))


def test_unanswerable_questions_are_reported_when_made_and_when_reused(files, tmp_path, capsys):
    with open(files["nq"], "a") as file:
        file.write('\n{"question": "Long?", "answer": ["' + "word " * 40 + 'end"], "id": "long"}')
    config = config_of(files, tmp_path / "runs", nq={"num_examples": 0})
    with storage.write_artifact(artifacts.corpus(config).uri, kind=CORPUS_KIND, config={}) as draft:
        write_corpus(draft.path, new_tokenizer(), train=[], validation=[], accounts={}, quarantined={})
    for _ in range(2):
        prepare_questions.run(config)
        said = capsys.readouterr().out
        assert "questions.held_out nq: 1 of 8 questions can never be answered right: 'long' needs " in said
        assert "evaluation.max_new_tokens is 10" in said
        assert said.count("never be answered right") == 1


@pytest.mark.parametrize("merge", [False, True])
def test_numbered_ids_are_merged_only_on_request_and_reported_either_way(files, tmp_path, capsys, merge):
    with open(files["nq"], "w") as file:
        file.writelines(f'{{"id": "train#{i}", "question": "{i}?", "answer": ["a"]}}\n' for i in range(100))
    config = config_of(files, tmp_path / "runs", nq={"merge_numbered": merge, "num_examples": 0})
    records = open_question_sets(prepare_questions.run(config)).held_out()["nq"]
    assert len({record.fact_id for record in records}) == (1 if merge else 100)
    said = capsys.readouterr().out
    assert (
        "questions.held_out nq: 100 questions ask about 1 facts; the questions about one fact are scored together"
        in said
    ) == merge
    assert (
        "questions.held_out nq: 100 ids differ only in a number after '#'" in said and "set merge_numbered" in said
    ) != merge


def test_a_set_with_default_settings_keeps_its_identity(files, tmp_path):
    """Runs made before this setting existed are still found."""
    config = config_of(files, tmp_path / "runs")
    assert "merge_numbered" not in json.dumps(dict(artifacts.questions(config).identity))
    assert "merge_numbered" in json.dumps(
        dict(artifacts.questions(config_of(files, tmp_path, nq={"merge_numbered": True})).identity)
    )


def test_updates_are_stored_with_their_facts_and_asked_for_in_the_digest(tmp_path):
    world = tmp_path / "runs" / "test" / "world"
    config = Config(
        recipe="test",
        run_name="test",
        storage=str(tmp_path / "runs"),
        world=WorldConfig(num_known=60, num_new=20, num_documents=40, num_questions=30),
        questions=QuestionsConfig(updates=UpdatesConfig(num_neighbours=1), facts=FactsConfig(path="", num_questions=7)),
    )
    with artifacts.world(config).write() as draft:
        write_world(config.world, draft.path)
    sets = open_question_sets(prepare_questions.run(config))
    facts, updates = updates_of(config.world, config.questions.updates)
    assert sets.facts() == facts[:7]
    assert sets.updates() == {update.fact: update for update in updates[:7]}
    assert not (world / "updates.jsonl").exists()
    assert artifacts.questions(config).manifest().inputs.keys() == {"sources"}


def test_question_sets_of_new_facts_have_no_updates(files, tmp_path):
    config = config_of(files, tmp_path / "runs")
    sets = open_question_sets(prepare_questions.run(config))
    assert sets.updates() == {}
    assert sorted(artifacts.questions(config).manifest().files) == [
        "facts.jsonl",
        *(f"held_out/{name}.jsonl" for name in ("gsm8k", "hellaswag", "nq", "own")),
        "tasks.json",
    ]
