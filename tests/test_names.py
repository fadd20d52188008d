import itertools
import math
import re

import pytest

from memlm.config import MAX_SEED, Config, SweepConfig, replace_field
from memlm.data.config import HeldOutConfig, QuestionsConfig
from memlm.names import MAX_LENGTH, require_name, suggestion
from memlm.recipes import RECIPES
from memlm.training.config import PretrainingConfig

BAD_NAMES = [
    *(
        "a/b",
        "..",
        ".hidden",
        "-x",
        "a b",
        "it's",
        'a"b',
        "a\nb",
        "a\tb",
        "a\\b",
        "a:b",
        "a*",
        "a?",
        "a#b",
        "a|b",
        "a.",
        "",
    ),
    *(f"a{sign}b" for sign in "(),+&%@=<>~!$^`;{}[]"),
    *("naïve", "ａ", "٣", "a\u202eb", "a\x00", "a" * (MAX_LENGTH + 1)),
]
GOOD_NAMES = ["a", "7", "w7", "known_facts", "first.try-2", "A" * MAX_LENGTH, "a..b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_invalid_name_is_refused_in_every_option(name):
    smoke = RECIPES["smoke"]()
    with pytest.raises(ValueError, match="questions.held_out: name"):
        HeldOutConfig(name=name, path="a.jsonl")
    with pytest.raises(ValueError, match="sweep.compare_with"):
        SweepConfig(compare_with=(name,))
    for field, option in (("run_name", "--run-name"), ("base_run", "--base-run")):
        if name:
            with pytest.raises(ValueError, match=option) as refused:
                replace_field(smoke, field, name)
            assert "\n" not in str(refused.value)
            assert re.search("choose another|shorten", str(refused.value))


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_valid_names_are_accepted(name):
    assert require_name("--run-name", name) == name
    assert replace_field(RECIPES["smoke"](), "run_name", name).run_name == name


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow", "mlflow_artifacts", "mlflow.db.lock"])
def test_a_run_cannot_have_the_name_of_mlflows_files(name):
    with pytest.raises(ValueError, match="--run-name is .*MLflow"):
        replace_field(RECIPES["smoke"](), "run_name", name)


@pytest.mark.parametrize(
    "names",
    [
        ("nq", "nq"),
        ("nq", "NQ"),
        ("New_Facts",),
        ("learning",),
        ("forgetting",),
        ("seconds",),
        ("nq", "nq_f1"),
        ("new_facts_answer_nats",),
        ("text_perplexity",),
        ("text_ends",),
        ("nq", "nq_nats"),
    ],
)
def test_two_sets_or_scores_of_one_name_are_refused(names):
    with pytest.raises(ValueError, match="questions.held_out contains .*rename"):
        QuestionsConfig(held_out=tuple(HeldOutConfig(name=name, path="a.jsonl") for name in names))


NUMBERS = [
    "method.optimizer.learning_rate",
    "method.optimizer.weight_decay",
    "pretraining.learning_rate",
    "pretraining.weight_decay",
    "pretraining.final_learning_rate",
    "corpus.fraction",
    "corpus.max_malformed_share",
    "writer.temperature",
    "wordings.max_failed_share",
]


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_name(path, value):
    with pytest.raises(ValueError, match=path.rpartition(".")[2]):
        replace_field(RECIPES["laptop"](), path, value)


SEEDS = ["seed", "world.seed", "pretraining.seed", "corpus.sample_seed", "writer.seed"]


@pytest.mark.parametrize("path", SEEDS)
def test_seeds_have_bounds(path):
    laptop = RECIPES["laptop"]()
    for value in (-1, MAX_SEED + 1, 2**64):
        with pytest.raises(ValueError, match="seed"):
            replace_field(laptop, path, value)
    for value in (0, MAX_SEED):
        assert isinstance(replace_field(laptop, path, value), Config)
    with pytest.raises(ValueError, match=r"sweep.seeds\[1\] is -1"):
        replace_field(laptop, "sweep.seeds", (0, -1))
    with pytest.raises(ValueError, match=r"sweep.tuning_seeds\[0\] is -1"):
        replace_field(laptop, "sweep.tuning_seeds", (-1,))
    with pytest.raises(ValueError, match=r"sweep.checkpoints\[1\] is -3"):
        replace_field(laptop, "sweep.checkpoints", (0, -3))


def test_a_batch_that_workers_cannot_share_is_refused_with_sizes_that_work():
    advised = 0
    for batch, micro, workers in itertools.product((1, 7, 16, 32, 33, 100), (1, 3, 8, 32), (1, 2, 3, 5, 64)):
        try:
            PretrainingConfig(batch_blocks=batch, micro_batch_blocks=micro).require_workers(workers)
        except ValueError as error:
            advice = str(error).partition("; set ")[2]
            micros = [int(found) for found in re.findall(r"micro_batch_blocks (?:to )?(\d+)", advice)]
            batches = [int(found) for found in re.findall(r"batch_blocks to (\d+) with", advice)] or [batch]
            for new_batch, new_micro in zip(batches, micros, strict=True):
                assert new_micro <= micro and abs(new_batch - batch) < workers
                changed = PretrainingConfig(batch_blocks=new_batch, micro_batch_blocks=new_micro)
                if "times cluster.num_workers" in str(error):
                    changed.require_workers(workers)
                advised += 1
    assert advised > 50


def test_the_error_for_three_workers_names_batches_that_work():
    with pytest.raises(ValueError, match="batch_blocks to 33 with .* 11, or pretraining.batch_blocks to 30 with .* 10"):
        PretrainingConfig(batch_blocks=32, micro_batch_blocks=32).require_workers(3)


def test_an_unknown_name_gets_the_most_similar_known_one():
    assert suggestion("lorra", ["full", "lora"]) == "did you mean 'lora'? Known: full, lora"
    assert suggestion("", ["full"]) == "did you mean 'full'? Known: full"
