import pytest

from memlm.data.config import QUESTION_TASKS
from memlm.data.questions.layouts import LAYOUTS
from memlm.data.questions.records import MultipleChoice, Question, QuestionError, TaskChoice
from memlm.evaluation.chat import chat_rows, holds_answer, reply_to
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.tasks import TASKS, default_task, exam_of
from memlm.model.reader import Reader
from tests.support.asking import new_model, new_tokenizer

QUESTIONS = [Question(id=str(i), question=f"{i}?", answers=("a",), solution="#### 1") for i in range(8)]
CHOICES = [MultipleChoice(id=str(i), query="It", choices=("a", "b"), gold=0) for i in range(8)]


def records_of(task):
    return CHOICES if TASKS[task].kind is MultipleChoice else QUESTIONS


def test_every_specific_layout_has_its_own_task():
    assert set(LAYOUTS) - set(TASKS) == {"fields"}
    assert {default_task(QUESTIONS, layout) for layout in LAYOUTS} == {*LAYOUTS} - {"fields"} | {"questions"}
    assert default_task(CHOICES, "fields") == default_task(CHOICES) == "multiple_choice"


@pytest.mark.parametrize("task", TASKS)
def test_a_label_names_task_version_and_unusual_examples(task):
    own = TASKS[task].num_examples
    version = TASKS[task].version
    general = task in ("questions", "multiple_choice")
    assert exam_of(task, records_of(task), TaskChoice(task=task)).label == f"{task}@{version}"
    named = exam_of("mine", records_of(task), TaskChoice(task=task, num_examples=own)).label
    assert named == (f"mine@{version}" if general else f"mine:{task}@{version}")
    assert exam_of(task, records_of(task), TaskChoice(task=task, num_examples=3)).label == f"{task}@{version},3-shot"


@pytest.mark.parametrize(("num_examples", "expected"), [(-1, 5), (0, 0), (2, 2), (7, 7)])
def test_examples_are_the_last_records_and_never_asked(num_examples, expected):
    exam = exam_of("nq_open", QUESTIONS, TaskChoice(task="nq_open", num_examples=num_examples))
    assert len(exam.examples) == expected
    assert [*exam.asked, *exam.examples] == QUESTIONS


@pytest.mark.parametrize(
    ("records", "choice", "reason"),
    [
        (QUESTIONS, TaskChoice(task="nq_open", num_examples=8), "8 examples leave none of 8 records"),
        (QUESTIONS[:5], TaskChoice(task="nq_open"), "5 examples leave none of 5 records"),
        (QUESTIONS, TaskChoice(task="hellaswag"), "needs choices"),
        (CHOICES, TaskChoice(task="triviaqa"), "needs questions with answers"),
        ([], TaskChoice(), "needs questions with answers"),
        (QUESTIONS, TaskChoice(task="trivia_qa"), "'trivia_qa'; did you mean 'triviaqa'?"),
    ],
)
def test_a_set_that_cannot_be_asked_is_refused(records, choice, reason):
    with pytest.raises(QuestionError) as refused:
        exam_of("mine", records, choice)
    assert str(refused.value).startswith("mine: ")
    assert reason in str(refused.value)


def test_a_config_may_name_every_task_and_no_other():
    assert set(QUESTION_TASKS) == set(TASKS)


# --- Questions in the form of a chat ---

TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>bot: {% endif %}"
CHATS = [
    Question(id=str(i), question=f"Where is the {word}?", answers=(word,))
    for i, word in enumerate(("fish", "red </s> bird"))
]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = new_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("<s>", tokenizer.bos_token).replace("</s>", tokenizer.eos_token)
    return tokenizer


def test_a_chat_is_the_template_with_the_question_as_text(tokenizer):
    rows = chat_rows(tokenizer, CHATS)
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": CHATS[0].question}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(rows[0]) == shown
    spelled = Question(id="x", question=f"Is {tokenizer.eos_token} red?", answers=("no",))
    (row,) = chat_rows(tokenizer, [spelled])
    assert tokenizer.decode(row).count(tokenizer.eos_token) == 2
    assert row.count(tokenizer.eos_token_id) == 1, "only the template's own ends a turn"


@pytest.mark.parametrize(
    ("reply", "answers", "held"),
    [
        ("She was born in Paris.", ("Paris",), 1),
        ("It is the New York City.", ("new york city", "NYC"), 1),
        ("It is the NYC!", ("New York City", "NYC"), 1),
        ("Parisian", ("Paris",), 0),
        ("New Jersey, York", ("New York",), 0),
        ("", ("Paris",), 0),
    ],
)
def test_a_reply_is_right_if_it_has_the_words_of_an_answer_next_to_each_other(reply, answers, held):
    assert holds_answer(reply, answers) == held


def test_the_task_asks_in_the_chat_and_shows_no_examples(tokenizer):
    reader, config = Reader(new_model(tokenizer), tokenizer), EvaluationConfig(max_chat_tokens=6)
    (reply, _) = reply_to(reader, CHATS, max_new_tokens=6, batch_size=2)
    asked = [CHATS[0], CHATS[1], Question(id="2", question="Where is the fish?", answers=(reply,))]
    exam = exam_of("chat", asked, TaskChoice(task="chat"), shared_examples=CHATS)
    assert (exam.label, exam.shared_examples) == ("chat@1", ())
    measured = exam.task.score(reader, config, exam.asked, exam.examples, None)
    assert measured.answers[0] == measured.answers[2] == reply and measured.items[2] == 1
    assert exam.task.chance(exam.asked) == pytest.approx(1 / 3)


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = new_tokenizer()
    with pytest.raises(QuestionError, match="chat template, and it has none"):
        reply_to(Reader(new_model(tokenizer), tokenizer), CHATS, max_new_tokens=2, batch_size=1)
