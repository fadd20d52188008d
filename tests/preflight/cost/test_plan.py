"""Page and command of a plan, and the growth of its lines."""

import json
import math
import re
from dataclasses import replace

import pytest

from memlm.cli import run_plan
from memlm.preflight.cost.command import answer, take_options, with_slots
from memlm.preflight.cost.goodput import goodput
from memlm.preflight.cost.growth import growth
from memlm.preflight.cost.machines import MACHINES
from memlm.preflight.cost.stages import Assumptions, make_plan
from memlm.preflight.cost.training import BUCKET_ELEMENTS
from memlm.recipes import RECIPES

PAPER, H100 = RECIPES["paper_1b"](), MACHINES["h100"]
TRIALS = {PAPER.method: 3}


def plan(devices=8, config=PAPER, machine=H100, **assumed):
    return make_plan(config, machine, devices, Assumptions(**assumed), TRIALS)


def test_the_papers_model_has_the_papers_sizes():
    """1.3 B parameters with a pool of a billion, of which a token reads 128 rows (Lin et al. 2025,
    section 4)."""
    sizes = plan().memory.sizes
    assert sizes.pool == 1024**2 * 1024
    assert sizes.active - sizes.base == 4 * 32 * 1024
    assert 1.2e9 < plan().dense.sizes.base < 1.35e9


def test_half_key_scores_grow_with_the_root_of_the_slots():
    work = plan().memory.work
    assert work["half-key scores"].forward == 4 * 2 * (
        1024 * 256 * 2
    )  # heads, halves, a product of query and half-keys
    assert work["pairs of half-keys"].forward == 4 * 119
    larger = plan(config=with_slots(PAPER, 2**24)).memory.work
    assert larger["half-key scores"].forward == 4 * work["half-key scores"].forward
    assert larger["weighted read"] == work["weighted read"]


def test_lazy_adam_moves_the_rows_read_and_adamw_moves_all():
    """A batch of one block reads few of 16 M slots."""
    few = replace(PAPER, pretraining=replace(PAPER.pretraining, batch_blocks=8, micro_batch_blocks=1))
    config = with_slots(few, 2**24)
    lazy = plan(config=config).memory
    dense = plan(config=replace(config, pretraining=replace(config.pretraining, pool_optimizer="adamw"))).memory
    moved = lazy.row_bytes()["pool optimizer"] * lazy.layout.split
    assert moved == pytest.approx(28 * 1024 * lazy.rows_read(8 * 2048))
    assert moved < 28 * 1024 * min(2**24, 8 * 2048 * 128)
    assert dense.row_bytes()["pool optimizer"] > 28 * dense.sizes.pool / 8
    assert lazy.row_bytes()["weighted read"] == dense.row_bytes()["weighted read"] == 3 * 4 * 2048 * 128 * 1024


LAWS = {
    ("parameters", "pool"): "slots",
    ("parameters", "of the base, half-keys"): "slots^0.5",
    ("memory per device", "pool values"): "slots",
    ("memory per device", "pool moments"): "slots",
    ("memory per device", "optimizer"): "gpus^-1",
    ("memory per device", "weights"): "",
    ("FLOPs per token", "half-key scores"): "slots^0.5",
    ("FLOPs per token", "weighted read"): "",
    ("pretraining", "FLOP"): "tokens",
    ("pretraining", "hours between failures"): "gpus^-1",
    ("stages on CPUs", "prepare_corpus"): "tokens",
    ("storage", "counts"): "slots",
    ("storage", "token blocks"): "tokens",
    ("sweep", "trials"): "trials",
}


@pytest.mark.parametrize("line, law", LAWS.items())
def test_laws_of_growth(line, law):
    assert growth(plan())[line] == law


def test_columns_are_split_over_the_fewest_devices_that_hold_them():
    splits = [plan(64, with_slots(PAPER, slots)).memory.layout.split for slots in (2**20, 2**22, 2**24, 2**26)]
    assert splits[0] == 1 and splits == sorted(splits) and splits[-1] > splits[0]
    chosen = plan(64, with_slots(PAPER, 2**24)).memory
    fewer = replace(chosen, layout=replace(chosen.layout, split=chosen.layout.split // 2, micro_blocks=1))
    assert chosen.fits() and not fewer.fits()


def test_split_columns_divide_the_tables_and_are_merged_by_fewer_ranks():
    whole = plan(64).memory
    split = replace(whole, layout=replace(whole.layout, split=64))
    assert split.pool_memory()["pool values"] == whole.pool_memory()["pool values"] / 64
    assert split.network()["pool row gradients"] == 0 < whole.network()["pool row gradients"]
    assert whole.network()["pool lookups"] == 0 < split.network()["pool lookups"]


def test_a_faster_split_is_reported_and_can_be_requested():
    whole = plan(64)
    (note,) = [note for note in whole.notes if "--split" in note]
    assert "--split 32" in note
    split = plan(64, split=64)
    assert split.memory.layout.split == 64 and not [note for note in split.notes if "--split" in note]
    assert split.step_lines()["total"] < 0.9 * whole.step_lines()["total"]


def test_a_model_that_fits_nowhere_is_reported_with_the_arithmetic():
    found = plan(512, with_slots(PAPER, 2**34))
    assert not found.memory.fits() and found.memory.sizes.pool == 2**34 * 1024
    assert any("does not fit" in note and "model.memory.value_dim" in note for note in found.notes)
    assert not any("the fewest that hold" in note for note in found.notes)
    assert "NO" in answer(PAPER, H100, take_options(["--gpus", "512", "--slots", "2^34"])[0], TRIALS)


def test_a_batch_that_cannot_be_divided_is_raised_and_reported():
    found = plan(512)
    assert (found.memory.layout.batch_blocks, found.memory.num_tokens) == (512, 60_000 * 256 * 2048)
    assert any("set pretraining.batch_blocks to 512" in note and "planned with 512" in note for note in found.notes)


def test_the_micro_batch_fits():
    small = plan(8, machine=MACHINES["a100-40"]).memory
    assert small.fits() and small.layout.micro_blocks < plan(8, machine=MACHINES["h200"]).memory.layout.micro_blocks


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_zero_stage_divides_more(stage):
    def held(number):
        settings = replace(PAPER.pretraining, zero_stage=number)
        memory = plan(config=replace(PAPER, pretraining=settings)).memory.memory()
        return [memory[name] for name in ("optimizer", "gradients", "weights")]

    shared = [number < whole for number, whole in zip(held(stage), held(0), strict=True)]
    assert shared == [stage >= 1, stage >= 2, stage >= 3]


def test_zero_collects_gradients_in_a_bucket():
    bucket = [
        plan(config=replace(PAPER, pretraining=replace(PAPER.pretraining, zero_stage=stage))).memory.memory()[
            "ZeRO's bucket"
        ]
        for stage in (0, 1, 2, 3)
    ]
    assert bucket == [0, 4 * BUCKET_ELEMENTS, 4 * BUCKET_ELEMENTS, 4 * BUCKET_ELEMENTS]


def zero(stage, **settings):
    return replace(PAPER, pretraining=replace(PAPER.pretraining, zero_stage=stage, **settings))


def test_bytes_over_the_network_by_hand():
    """A ring gives each of 8 devices 7/8 of what is reduced and gathered; row gradients come
    from 7, each a slot and 1,024 values."""
    found, share = plan(config=zero(1)).memory, 7 / 8
    engine, rows = 4 * found.sizes.base, found.rows_read(256 // 8 * 2048)
    assert rows == pytest.approx(0.72 * 2**20, rel=0.05)
    assert found.network() == {
        "gradients": pytest.approx(2 * share * engine),
        "weights": pytest.approx(share * engine),
        "pool row gradients": pytest.approx(7 * rows * (8 + 4 * 1024)),
        "pool lookups": 0,
        "pool outputs": 0,
    }
    # Of 32 blocks a device, in micro-batches of 4.
    assert found.num_micro_batches == 8
    assert plan(config=zero(0)).memory.network()["weights"] == 0
    assert plan(config=zero(2)).memory.network()["gradients"] == pytest.approx(2 * 8 * share * engine)
    assert plan(config=zero(3)).memory.network()["gradients"] == pytest.approx(8 * share * engine)
    dense = plan(config=zero(1, pool_optimizer="adamw")).memory
    assert dense.network() == {
        "gradients": pytest.approx(2 * share * 4 * (dense.sizes.base + dense.sizes.pool)),
        "weights": pytest.approx(share * 4 * (dense.sizes.base + dense.sizes.pool)),
    }


def test_bytes_of_split_columns_by_hand():
    """Over 2 of 8: lookups of 128 reads from one other, half of each row both ways, and row
    gradients from the 3 others with these columns."""
    config = replace(PAPER, cluster=replace(PAPER.cluster, num_workers=8))
    found = plan(config=replace(config, pretraining=replace(config.pretraining, pool_split=2))).memory
    tokens = 256 // 8 * 2048
    assert found.network()["pool lookups"] == tokens * 128 * (8 + 4 + 4)
    assert found.network()["pool outputs"] == tokens * 512 * (4 + 4)
    rows = found.rows_read(2 * tokens)
    assert found.network()["pool row gradients"] == pytest.approx(3 * rows * (8 + 4 * 512))


@pytest.mark.parametrize("devices, bytes_per_second", [(8, 450e9), (64, 50e9)])
def test_network_time_follows_the_slowest_link(devices, bytes_per_second):
    found = plan(devices)
    lines = found.network_lines()
    assert lines == {**found.memory.network(), "total": pytest.approx(sum(found.memory.network().values()))}
    assert found.step_lines()["network"] == pytest.approx(lines["total"] / (0.7 * bytes_per_second))


def test_the_recipes_split_is_planned_if_the_devices_allow_it():
    recipe = RECIPES["paper_64m"]()
    found = plan(64, recipe)
    assert found.memory.layout.split == 32 and not [note for note in found.notes if "pool_split" in note]
    assert found.dense.layout.split == 1
    other = plan(8, recipe)
    assert other.memory.layout.split == 8
    assert "pretraining.pool_split 32 -> 8, as 8 devices are no multiple of 32" in other.notes
    assert plan(64, recipe, split=64).memory.layout.split == 64
    larger = with_slots(recipe, 2**28)
    (note,) = [note for note in plan(512, larger).notes if "does not fit" in note]
    assert "split over 32, each needs" in note and "Split them over 128 (--split 128" in note
    assert plan(512, larger, split=128).memory.fits()
    unsplit = plan(64, with_slots(PAPER, 2**24))
    assert f"pretraining.pool_split 1 -> {unsplit.memory.layout.split}, the fewest that hold the pools" in unsplit.notes


@pytest.mark.parametrize(
    "sample, shards",
    [
        ({"fraction": 1.0}, 27_840),
        ({"fraction": 0.01}, 278),
        ({"fraction": 0.5, "max_shards": 100}, 100),
        ({"fraction": 0.01, "max_shards": 1000}, 278),
    ],
)
def test_the_corpus_is_the_sample_that_the_recipe_takes(sample, shards):
    found = plan(config=replace(PAPER, corpus=replace(PAPER.corpus, **sample)))
    lines = found.layout()
    assert lines["shards of the corpus"] == shards
    assert lines["tokens of the corpus"] == pytest.approx(shards * 4e12 / 27_840, rel=0.002)
    assert found.storage_lines()["corpus shards, read"] == pytest.approx(shards * 200e6, rel=0.002)
    assert found.run_lines()["passes over the corpus"] == pytest.approx(
        60_000 * 256 * 2048 / lines["tokens of the corpus"]
    )


def test_goodput_by_hand():
    """Llama 3's rate on 16,384 GPUs, a state in 30 s: one every 818 s between failures 3.1 hours
    apart (Daly 2006)."""
    found = goodput(devices=16_384, save_seconds=30, load_seconds=0, failures_per_device_hour=1 / 50_700)
    assert found.hours_between_failures == pytest.approx(3.09, abs=0.01)
    assert found.interval_seconds == pytest.approx(818, abs=2)
    assert found.share == pytest.approx(818 / 848 * (1 - (409 + 30 + 300) / 11_140), abs=0.002)
    slow = goodput(devices=16_384, save_seconds=30, load_seconds=600, failures_per_device_hour=1 / 50_700)
    assert slow.share == pytest.approx(found.share - 600 / (3600 * found.hours_between_failures), abs=0.01)
    assert goodput(devices=8, save_seconds=30, load_seconds=0, failures_per_device_hour=0).share == 1
    assert goodput(devices=10**7, save_seconds=300, load_seconds=0, failures_per_device_hour=1 / 50_700).share == 0


def test_a_document_with_rewrites_is_one_chunk_whether_or_not_somebody_asks_about_it():
    config = RECIPES["wiki_documents"]()
    stream = replace(config.stream, num_documents=4)
    given = replace(config.questions.documents, augmenter="given", answering_chunks_only=False)
    ruled = replace(given, augmenter="rules")
    learned, paragraphs = (
        plan(config=replace(config, stream=stream, questions=replace(config.questions, documents=documents)))
        for documents in (given, ruled)
    )
    trial = "finetune and score, one trial"
    assert paragraphs.stage_lines()[trial] > 5 * learned.stage_lines()[trial]


def test_corpus_tokens_are_trained_on_once():
    found = plan(corpus_tokens=4e12)
    assert found.memory.num_steps == pytest.approx(4e12 / (256 * 2048))
    assert found.storage_lines()["corpus shards, read"] == pytest.approx(27_840 * 200e6)
    assert plan().memory.num_steps == 60_000


# The command.


def test_a_column_for_each_number(capsys):
    run_plan(["smoke", "--gpus", "1", "2", "--slots", "2^10", "2^12", "--gpu-type", "cpu"])
    page = capsys.readouterr().out
    (line,) = [line for line in page.splitlines() if re.match(r" *trials +\d", line)]
    assert line.split()[1:] == ["12", "12", "12", "12", "trials"]
    (line,) = [line for line in page.splitlines() if line.strip().startswith("slots of a pool")]
    assert line.split()[4:] == ["1.02", "k", "4.1", "k", "1.02", "k", "4.1", "k"]


def test_the_same_columns_as_json(capsys):
    run_plan(["smoke", "--json", "--pretraining.zero-stage", "2", "--failures-per-gpu-hour", "0"])
    printed = json.loads(capsys.readouterr().out)
    (column,) = printed["columns"]
    values = {(line["section"], line["name"]): line["value"] for line in column["quantities"]}
    assert values["pretraining", "goodput"] == 1 and values["pretraining", "hours between failures"] is None
    assert values["sweep", "trials"] == 12 and values["parameters", "pool"] == 32 * 32 * 32


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["laptp"], "did you mean 'laptop'?"),
        (["--gpu-type", "h10"], "unknown GPU type 'h10'; did you mean 'h100'?"),
        (["--gpus", "many"], "invalid int value: 'many'"),
        (["--slots", "lots"], "'lots' is not a number from 1 to 1e+18; write it as 1048576, 2^20"),
        (["--slots", "2^99999999"], "'2^99999999' is not a number"),
        (["--slots", "1e999"], "'1e999' is not a number"),
        (["--slots", "0"], "'0' is not a number"),
        (["--corpus-tokens", "1.2.3"], "'1.2.3' is not a number"),
        (["--pretraining.zero-stag", "1"], "--pretraining.zero-stage"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_name(capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        run_plan(arguments)
    assert stopped.value.code == 2 and said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--gpus", "2", "--split", "3"], "--split is 3; it must divide the 2 devices and the 128 columns"),
        (["--gpus", "0"], "--gpus is 0; it must be at least 1"),
        (["--utilisation", "35"], "--utilisation is 35.0; it is a share of the peak"),
        (["--failures-per-gpu-hour", "-1"], "--failures-per-gpu-hour is -1.0"),
        (["--corpus.tokenizer", "gpt2"], "corpus.tokenizer is 'gpt2', whose size is unknown"),
        (["--gpus", *map(str, range(1, 10))], "a page has room for 8"),
        (["--sweep.scale", "lapto"], "did you mean 'laptop'?"),
    ],
)
def test_an_impossible_plan_is_refused_on_one_line(capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        run_plan(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 1 and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert said in printed.err and printed.out == ""


def test_numbers_are_read_as_people_write_them():
    options, rest = take_options(
        ["paper_1b", "--slots", "2^20", "1_024", "64M", "--corpus-tokens", "4T", "1e12", "--seed", "3"]
    )
    assert options.slots == (2**20, 1024, 64_000_000) and options.corpus_tokens == (4e12, 1e12)
    assert rest == ["paper_1b", "--seed", "3"]
    assert with_slots(PAPER, 64_000_000).model.memory.num_slots == 8000**2


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("devices", [1, 8])
def test_every_recipe_can_be_planned(recipe, devices):
    config = RECIPES[recipe]()
    for machine in MACHINES.values():
        found = make_plan(config, machine, devices, Assumptions(), {config.method: 1})
        assert all(line.value >= 0 and not math.isnan(line.value) for line in found.quantities())
        assert len({(line.section, line.name) for line in found.quantities()}) == len(found.quantities())


def test_a_batch_that_cannot_be_divided_gives_pretrainings_own_message(capsys):
    run_plan(["laptop", "--gpus", "3"])
    printed = " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError) as refused:
        RECIPES["laptop"]().pretraining.require_workers(3)
    assert (
        "set pretraining.batch_blocks to 33 with" in str(refused.value)
        and f"{refused.value}; planned with 33" in printed
    )
