import pytest
import torch

from memlm.data.questions.records import Question
from memlm.data.tokenizer import train_tokenizer
from memlm.evaluation.question_answering import PROMPT, answer_questions, complete, prompts_of
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.model.language_model import build_model, model_config
from memlm.model.reader import Reader
from tests.data.foreign_tokenizers import like_llama2, like_t5

TEXTS = ["Question: Who is the king of the north?\nAnswer: Jon the Second"] * 50


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300)


def new_model(tokenizer, *, hidden_size=16):
    memory = MemoryConfig(layers=(1,), num_half_keys=8, top_k=3, num_heads=2, key_dim=6, value_dim=10)
    shape = ModelConfig(
        num_layers=2,
        hidden_size=hidden_size,
        num_attention_heads=2,
        intermediate_size=20,
        initializer_range=0.5,
        memory=memory,
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    return build_model(model_config(shape, dense=False, vocab_size=len(tokenizer), **ids), seed=3).eval()


def model_that_says(tokenizer, *texts):
    """A model whose next token depends on the last one alone: the layers add nothing, and the
    head is a table.

    After "Answer:" it says the text, or anything else where the texts do not say.
    """
    size = len(tokenizer) + len(tokenizer) % 2
    model = new_model(tokenizer, hidden_size=2 * size)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.layers[1].mlp.output.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), 2 * size))
        model.lm_head.weight.zero_()
        for text in texts:
            asked, said = tokenizer(PROMPT.format(question="Who?"))["input_ids"], tokenizer(text)["input_ids"]
            for last, following in zip([asked[-1], *said], said, strict=False):
                model.lm_head.weight[following, last] = 1.0
    return model


def question(text, *answers):
    return Question(id=text, question=text, answers=answers)


QUESTIONS = [
    question("Who is the king?", "Jon"),
    question("Who is the king of the far north?", "Ned", "the  jon!"),
    question("Who?", "Jon Snow"),
    question("Who is it?", "Robb"),
]


@pytest.mark.parametrize("ending", ["\nQuestion", "<|eos|>", "<|eos|>king"])
def test_an_answer_ends_with_its_line_or_text_and_is_scored(tokenizer, ending):
    model = model_that_says(tokenizer, f" Jon{ending}")
    scores = answer_questions(Reader(model, tokenizer), QUESTIONS, max_new_tokens=12, batch_size=8)
    assert scores.answers == ("Jon",) * 4
    assert scores.exact_match == (1.0, 1.0, 0.0, 0.0)
    assert scores.f1 == pytest.approx((1.0, 1.0, 2 / 3, 0.0))


@pytest.mark.parametrize(
    ("until", "expected"), [("\n", "Jon"), ("king", "Jon\n the"), ("north", "Jon\n the king"), ("the king", "Jon")]
)
def test_a_continuation_can_end_elsewhere_than_at_its_line(tokenizer, until, expected):
    model = model_that_says(tokenizer, " Jon\n the king<|eos|>")
    assert complete(Reader(model, tokenizer), ["Answer:"], max_new_tokens=20, batch_size=1, until=until) == [expected]


def test_examples_stand_before_the_question_with_their_answers():
    shown = Question(id="x", question="Why?", answers=("So", "Thus"))
    worked = Question(id="y", question="How?", answers=("4",), solution="2 + 2\n#### 4")
    (prompt,) = prompts_of(QUESTIONS[:1], [shown, worked])
    assert prompt == (
        "Question: Why?\nAnswer: So\n\nQuestion: How?\nAnswer: 2 + 2\n#### 4\n\nQuestion: Who is the king?\nAnswer:"
    )


def test_an_answer_has_at_most_max_new_tokens(tokenizer):
    model = model_that_says(tokenizer, " Jon the")  # and nothing says how it ends
    (long,), (short,) = (
        complete(Reader(model, tokenizer), ["Answer:"], max_new_tokens=count, batch_size=1)
        for count in (len(tokenizer(" Jon")["input_ids"]), 1)
    )
    assert long == "Jon"
    assert len(tokenizer(" " + short)["input_ids"]) == 1


def test_prompts_ask_in_the_trained_form(tokenizer):
    assert TEXTS[0].startswith(PROMPT.format(question="Who is the king of the north?"))


PROMPTS = ["Who is", "king north of", "Answer:", "A", "the king", "north", "Who is", "Second the Jon"]


@pytest.fixture(scope="module")
def answers_one_by_one(tokenizer):
    model = new_model(tokenizer)
    return [complete(Reader(model, tokenizer), [prompt], max_new_tokens=8, batch_size=1)[0] for prompt in PROMPTS]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_answers_come_in_order_and_do_not_depend_on_their_neighbours(tokenizer, answers_one_by_one, batch_size):
    assert len(set(answers_one_by_one)) > 4  # so an exchange would be seen
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}) > 2  # of several lengths
    model = new_model(tokenizer)
    assert complete(Reader(model, tokenizer), PROMPTS, max_new_tokens=8, batch_size=batch_size) == answers_one_by_one


def test_pads_after_an_early_end_are_not_part_of_an_answer(tokenizer):
    """Two prompts in one batch: one answer ends at once and the other continues."""
    model = model_that_says(tokenizer, " Jon\n")
    with torch.no_grad():
        king, end = tokenizer(" king")["input_ids"][-1], tokenizer.eos_token_id
        model.lm_head.weight[:, king] = 0
        model.lm_head.weight[end, king] = 1
    ends = [" king", "Answer:"]
    lengths = [len(row) for row in tokenizer(ends)["input_ids"]]
    prompts = ["z" * (9 - length) + end for end, length in zip(ends, lengths, strict=True)]  # z is a token of its own
    assert [len(row) for row in tokenizer(prompts)["input_ids"]] == [9, 9]
    assert complete(Reader(model, tokenizer), prompts, max_new_tokens=6, batch_size=2) == ["", "Jon"]


def test_an_answer_ends_with_its_line_where_the_tokenizer_joins_line_breaks():
    tokenizer = train_tokenizer([TEXTS[0] + "\n\n"] * 50, vocab_size=320)
    (blank_line,) = tokenizer("\n\n")["input_ids"]
    model = model_that_says(tokenizer, " Jon\n\n")
    with torch.no_grad():
        model.lm_head.weight[tokenizer(" king")["input_ids"][-1], blank_line] = 1
    prompts = [PROMPT.format(question="Who?")]
    assert complete(Reader(model, tokenizer), prompts, max_new_tokens=12, batch_size=1) == ["Jon"]


def test_an_answer_of_two_words_is_whole_where_a_line_break_is_a_space(tmp_path):
    tokenizer = like_t5(tmp_path, "▁New")
    model = model_that_says(tokenizer, " New York</s>")
    assert complete(Reader(model, tokenizer), ["Answer:"], max_new_tokens=20, batch_size=1) == ["New York"]


def test_without_line_breaks_an_answer_ends_where_the_next_question_begins(tmp_path):
    tokenizer = like_t5(tmp_path, "▁New", "▁Question:")
    model = model_that_says(tokenizer, " New York Question:</s>")
    assert complete(Reader(model, tokenizer), ["Answer:"], max_new_tokens=20, batch_size=1) == ["New York"]


@pytest.mark.parametrize("pad", [{}, {"pad_token": "</s>"}, {"pad_token": "<unk>"}])
def test_an_answer_keeps_the_bytes_that_a_folder_calls_special(tmp_path, pad):
    tokenizer = like_llama2(tmp_path, **pad)
    model = model_that_says(tokenizer, "Zé\n")
    assert complete(Reader(model, tokenizer), ["Answer:"], max_new_tokens=20, batch_size=1) == ["Zé"]
