import pytest

from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.data.tokenizer import train_tokenizer
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.continuations import Continuation, continuation_nats
from memlm.evaluation.fact_scores import score_facts, seen_exact_match, wordings_as_clozes
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.model.language_model import build_model, model_config
from memlm.model.reader import Reader

TEXTS = ["Question: Where does Ada live?\nAnswer: Oslo", "Ada lives in Oslo.", "The home of Bo: New York City!"] * 30
EVALUATION = EvaluationConfig(max_new_tokens=6, batch_size=2)


def fact(name: str, *answers: str, statements: tuple[str, ...] = ()) -> Fact:
    questions = (
        Question(id=f"{name}#0", question=f"Where does {name} live?", answers=answers),
        Question(id=f"{name}#1", question=f"Which is {name}'s home?", answers=answers),
    )
    return Fact(id=name, statements=statements or (f"{name} lives in {answers[0]}.",), questions=questions)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=320)


@pytest.fixture(scope="module")
def model(tokenizer):
    memory = MemoryConfig(layers=(1,), num_half_keys=8, top_k=3, num_heads=2, key_dim=6, value_dim=10)
    shape = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=20,
        initializer_range=0.5,
        memory=memory,
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    return build_model(model_config(shape, dense=False, vocab_size=len(tokenizer), **ids), seed=3).eval()


@pytest.mark.parametrize(
    "wording, prompt, continuation",
    [
        ("Ada lives in Oslo.", "Ada lives in", " Oslo"),
        ('Ada says: "Oslo"!', 'Ada says: "', "Oslo"),
        ("In Oslo, so they say, Ada lives in Oslo", "In Oslo, so they say, Ada lives in", " Oslo"),
        ("They moved to the city of Oslo.", "They moved to the city of", " Oslo"),
    ],
)
def test_a_wording_that_ends_in_the_answer_is_asked_from_there(wording, prompt, continuation):
    (cloze,) = wordings_as_clozes(fact("Ada", "Oslo"), [wording])
    assert (cloze.prompt, cloze.continuation) == (prompt, continuation)
    assert cloze.answers == ("Oslo",)


@pytest.mark.parametrize(
    "wording", ["Oslo is where Ada lives.", "Oslo", "Ada lives in Oslo now.", "Ada lives.", " Oslo."]
)
def test_other_wordings_are_not_asked(wording):
    assert wordings_as_clozes(fact("Ada", "Oslo"), [wording]) == []


def test_the_longer_of_two_names_of_the_answer_is_asked_for():
    (cloze,) = wordings_as_clozes(fact("Bo", "York", "New York"), ["Bo lives in New York."])
    assert (cloze.prompt, cloze.continuation) == ("Bo lives in", " New York")


def test_a_score_is_the_mean_over_a_facts_questions(model, tokenizer):
    facts = [fact("Ada", "Oslo"), fact("Bo", "New York City", statements=("New York City is home to Bo.",))]
    together = score_facts(Reader(model, tokenizer), facts, EVALUATION, {one.id: one.statements for one in facts})
    prompts = [f"Question: {question.question}\nAnswer:" for question in facts[1].questions]
    asked = [Continuation(prompt, " New York City") for prompt in prompts]
    nats = [score.nats_per_token for score in continuation_nats(Reader(model, tokenizer), asked, batch_size=1)]
    assert together[1].nats_per_token == pytest.approx(sum(nats) / 2, rel=1e-5)
    (seen,) = continuation_nats(Reader(model, tokenizer), [Continuation("Ada lives in", " Oslo")], batch_size=1)
    assert together[0].seen_nats_per_token == pytest.approx(seen.nats_per_token, rel=1e-5)
    assert together[0].seen_exact_match == 0
    assert together[1].seen_nats_per_token is None and together[1].seen_exact_match is None
    alone = score_facts(Reader(model, tokenizer), facts[1:], EVALUATION)
    assert alone[0].nats_per_token == pytest.approx(together[1].nats_per_token, rel=1e-5)


def test_a_right_answer_scores_one(model, tokenizer, monkeypatch):
    monkeypatch.setattr(
        "memlm.evaluation.fact_scores.complete",
        lambda reader, prompts, **_: [" oslo." if "Which" in prompt or "in" in prompt else "" for prompt in prompts],
    )
    (found,) = score_facts(Reader(model, tokenizer), [fact("Ada", "Oslo")], EVALUATION, {"Ada": ["Ada lives in Oslo."]})
    assert found.exact_match == 0.5 and found.seen_exact_match == 1


def test_the_wordings_that_facts_were_learned_in_are_completed(model, tokenizer, monkeypatch):
    asked = []

    def answers(reader, prompts, **_):
        asked.extend(prompts)
        return [" Oslo." if prompt.startswith("Ada") else "" for prompt in prompts]

    monkeypatch.setattr("memlm.evaluation.fact_scores.complete", answers)
    ada = fact("Ada", "Oslo", statements=("Oslo is her home.", "Ada lives in Oslo.", "The home of Ada: Oslo"))
    bo, cy = fact("Bo", "Rome"), fact("Cy", "Lima", statements=("Lima is home to Cy.",))
    reader = Reader(model, tokenizer)
    assert seen_exact_match(reader, [ada, bo, cy], EVALUATION) == (0.5 + 0) / 2, (
        "a mean over facts; no wording of Cy's ends in Lima"
    )
    assert asked == ["Ada lives in", "The home of Ada:", "Bo lives in"]
    assert seen_exact_match(reader, [cy], EVALUATION) is None


def test_a_fact_without_questions_has_no_score(model, tokenizer):
    with pytest.raises(ValueError, match="1 facts, the first 'Bo', have no question"):
        score_facts(
            Reader(model, tokenizer), [fact("Ada", "Oslo"), Fact(id="Bo", statements=("x",), questions=())], EVALUATION
        )
