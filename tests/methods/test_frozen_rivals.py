import torch

from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.methods.in_context import InContext, InContextConfig
from memlm.methods.retrieval import Retrieval, RetrievalConfig
from tests.methods.test_build import FACTS
from tests.support.tiny import state, tiny_model


def ask(id: str, question: str) -> Question:
    return Question(id=id, question=question, answers=("?",))


def test_the_ceiling_puts_each_fact_before_its_own_question_only():
    method = InContext(tiny_model(dense=True), InContextConfig(num_statements=2), FACTS)
    assert method.context_of(FACTS[0].questions[0]) == "Ada was born in London.\nLondon saw the birth of Ada."
    assert method.context_of(ask("other", "Where was Ada born?")) == ""
    assert method.context_of(ask("a#0", "Where was Bo born?")) == "", "another set's question of the same number"
    one = InContext(tiny_model(dense=True), InContextConfig(), FACTS)
    assert one.context_of(FACTS[0].questions[0]) == "Ada was born in London."


def test_retrieval_finds_the_statement_with_the_questions_words_for_every_question():
    method = Retrieval(tiny_model(dense=True), RetrievalConfig(), FACTS)
    assert method.context_of(ask("a#0", "Where was Ada born?")) == "Ada was born in London."
    assert method.context_of(ask("held out", "Who plays the harp?")) == "Bo plays the harp."
    assert method.context_of(ask("sum", "3 plus 4?")) == "", "what shares no word is not put before a question"
    many = Retrieval(tiny_model(dense=True), RetrievalConfig(num_statements=9), FACTS)
    assert set(many.context_of(ask("x", "Ada?")).split("\n")) == set(FACTS[0].statements)


def test_statements_without_a_word_to_look_up_are_not_found():
    letters = [Fact(id="a", statements=("A b c.", "The x of y"), questions=(ask("a", "Which letter follows b?"),))]
    method = Retrieval(tiny_model(dense=True), RetrievalConfig(), letters)
    assert method.context_of(letters[0].questions[0]) == ""
    both = Retrieval(tiny_model(dense=True), RetrievalConfig(), [*letters, *FACTS])
    assert both.context_of(ask("a#0", "Where was Ada born?")) == "Ada was born in London."


def test_a_frozen_rival_takes_no_step_and_changes_no_weight():
    model = tiny_model(dense=True)
    before = state(model)
    method = Retrieval(model, RetrievalConfig(), FACTS)
    assert not method.learns and method.finish() is model
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
