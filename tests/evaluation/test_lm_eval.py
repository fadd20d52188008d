"""A checkpoint of ours in lm-evaluation-harness: it loads, and the two agree on every item of
tasks that both score."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from memlm.data.questions.layouts import clean_hellaswag
from memlm.data.questions.records import MultipleChoice, Question
from memlm.data.tokenizer import train_tokenizer
from memlm.evaluation.answers import normalize
from memlm.evaluation.continuations import Continuation, continuation_nats
from memlm.evaluation.multiple_choice import choose
from memlm.evaluation.question_answering import PROMPT, answer_questions, complete
from memlm.model.config import ModelConfig
from memlm.model.language_model import build_model, model_config
from memlm.model.reader import Reader
from tests.support.tiny import MEMORY

needs_harness = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import lm_eval.__main__"], capture_output=True).returncode != 0,
    reason="lm-evaluation-harness is not installed: pip install 'memlm[lm-eval]'",
)
MAX_NEW_TOKENS = 6
WORDS = ["red", "blue", "green", "house", "tree", "river", "stone", "cloud", "bird", "fish", "north", "south"]
QUESTIONS = [f"Where is the {first} {second}" for first in WORDS[:4] for second in WORDS[6:10]]
ANSWERS_TASK = """
task: own_answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/answers.json}}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: {tokens}}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
    regexes_to_ignore: ["^\\\\s+", "\\\\s+$"]
"""
CHOICES_TASK = """
task: own_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choices.json}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{gold}}}}"
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([PROMPT.format(question=question) for question in QUESTIONS], vocab_size=320)


@pytest.fixture(scope="module")
def model(tokenizer):
    shape = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=20,
        max_positions=128,
        initializer_range=0.5,
        memory=MEMORY,
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    return build_model(model_config(shape, dense=False, vocab_size=len(tokenizer), **ids), seed=5).eval()


@pytest.fixture(scope="module")
def questions(model, tokenizer):
    """Questions, half of them with the answer that the model gives, so that the score lies between
    0 and 1."""
    prompts = [PROMPT.format(question=question) for question in QUESTIONS]
    said = complete(Reader(model, tokenizer), prompts, max_new_tokens=MAX_NEW_TOKENS, batch_size=8)
    return [
        Question(id=str(i), question=question, answers=(answer if i % 2 and normalize(answer) else "nothing",))
        for i, (question, answer) in enumerate(zip(QUESTIONS, said, strict=True))
    ]


@pytest.fixture(scope="module")
def choices():
    return [
        MultipleChoice(
            id=str(i),
            query=f"{question}?",
            choices=tuple(" ".join([WORDS[(i + j) % 12]] * (j + 1)) for j in range(4)),
            gold=i % 4,
        )
        for i, question in enumerate(QUESTIONS)
    ]


@pytest.fixture(scope="module")
def harness(model, tokenizer, questions, choices, tmp_path_factory):
    """The harness's results and its samples by task."""
    folder = tmp_path_factory.mktemp("harness")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "answers.json").write_text(
        json.dumps([{"question": each.question, "answer": each.answers[0]} for each in questions])
    )
    (folder / "choices.json").write_text(
        json.dumps([{"query": each.query, "choices": each.choices, "gold": each.gold} for each in choices])
    )
    (folder / "answers.yaml").write_text(ANSWERS_TASK.format(folder=folder, tokens=MAX_NEW_TOKENS))
    (folder / "choices.yaml").write_text(CHOICES_TASK.format(folder=folder))
    command = [
        *[sys.executable, "-c", "from memlm.cli import main; main()", "lm-eval", "--model", "hf"],
        *["--model_args", f"pretrained={folder / 'model'},dtype=float32", "--include_path", str(folder)],
        *["--tasks", "own_answers,own_choices", "--device", "cpu", "--batch_size", "1"],
        *["--output_path", str(folder / "out"), "--log_samples"],
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (folder / "out").rglob("results_*.json")
    return json.loads(results.read_text())["results"], {
        task: _samples(folder / "out", task) for task in ("own_answers", "own_choices")
    }


def _samples(folder: Path, task: str):
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


@needs_harness
def test_exact_match_agrees(harness, model, tokenizer, questions):
    results, samples = harness
    ours = answer_questions(Reader(model, tokenizer), questions, max_new_tokens=MAX_NEW_TOKENS, batch_size=4)
    assert 0.2 < sum(ours.exact_match) / len(questions) < 0.8
    assert [sample["exact_match"] for sample in samples["own_answers"]] == list(ours.exact_match)
    assert results["own_answers"]["exact_match,none"] == pytest.approx(sum(ours.exact_match) / len(questions))


@needs_harness
def test_accuracy_and_its_norm_agree(harness, model, tokenizer, choices):
    results, samples = harness
    ours = choose(Reader(model, tokenizer), choices, batch_size=7)
    assert ours.accuracy != ours.accuracy_by_length  # so an exchange would be seen
    for measure, values in (("acc", ours.accuracy), ("acc_norm", ours.accuracy_by_length)):
        assert [sample[measure] for sample in samples["own_choices"]] == list(values)
        assert results["own_choices"][f"{measure},none"] == pytest.approx(sum(values) / len(values))


@needs_harness
def test_likelihoods_of_continuations_agree(harness, model, tokenizer, choices):
    pairs = [Continuation(each.query, f" {choice}") for each in choices for choice in each.choices]
    ours = [-each.nats for each in continuation_nats(Reader(model, tokenizer), pairs, batch_size=64)]
    theirs = [float(response[0][0]) for sample in harness[1]["own_choices"] for response in sample["resps"]]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-4)


@needs_harness
def test_hellaswag_is_cleaned_in_the_same_way():
    from lm_eval.tasks.hellaswag.utils import preprocess

    random = Random(0)
    pieces = [" [title]", "[title]", "[header]", "[substeps] ", " ", "  ", "A man", ". ", "[", "]", "\n", "é"]
    for _ in range(2000):
        text = "".join(random.choices(pieces, k=9))
        assert clean_hellaswag(text) == preprocess(text), repr(text)


def test_without_the_harness_the_remedy_is_named():
    hidden = "import sys; sys.modules['lm_eval'] = None; from memlm.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", hidden, "lm-eval", "--tasks", "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*lm_eval.*pip install 'memlm\[lm-eval\]'\n", done.stderr)
