from dataclasses import replace

import pytest
import torch

from memlm import artifacts
from memlm.config import Config
from memlm.data.questions.facts import Fact
from memlm.data.questions.streams import facts_of_stream
from memlm.jobs.sweep.checkpoint_runs import checkpoint_runs
from memlm.model.capacity import pool_bytes
from memlm.model.column_split import ColumnSplit
from memlm.model.language_model import build_model, count_parameters, model_config
from memlm.model.memory import MemoryLayer
from memlm.recipes import RECIPES
from memlm.run import named_base
from tune_spaces import load_spaces

every_recipe = pytest.mark.parametrize("name", RECIPES)


def on_meta_device(config: Config, *, dense: bool):
    with torch.device("meta"):
        return build_model(model_config(config.model, dense=dense, vocab_size=config.corpus.vocab_size), seed=0)


@every_recipe
def test_a_recipe_builds_without_memory_and_has_a_dense_twin_of_the_same_shape(name):
    config = RECIPES[name]()
    model, twin = (on_meta_device(config, dense=dense) for dense in (False, True))
    assert {parameter.device.type for parameter in [*model.parameters(), *twin.parameters()]} == {"meta"}
    for shape in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
        assert getattr(model.config, shape) == getattr(twin.config, shape)
    ffn = {tuple(layer.mlp.gate_proj.weight.shape) for layer in twin.model.layers}
    assert ffn == {(config.model.intermediate_size, config.model.hidden_size)}
    kept = [layer.mlp for layer in model.model.layers if not isinstance(layer.mlp, MemoryLayer)]
    assert {tuple(mlp.gate_proj.weight.shape) for mlp in kept} <= ffn
    replaced = len(model.model.layers) - len(kept)
    assert len(model.memory_layers) == len(config.model.memory.layers) > 0
    assert replaced == (len(model.memory_layers) if config.model.memory.placement == "replace" else 0)
    assert twin.memory_layers == [] and count_parameters(twin).pool == 0


@every_recipe
def test_a_recipe_has_its_functions_name_and_is_consistent(name):
    config = RECIPES[name]()
    assert config.recipe == name
    assert config.corpus.block_size <= config.model.max_positions
    assert config.stream.max_length + config.evaluation.max_new_tokens <= config.model.max_positions
    assert config.pretraining.warmup_steps < config.pretraining.num_steps or not config.pretraining.num_steps
    if config.world is not None:
        assert config.stream.num_facts <= config.world.num_new * 5


def test_laptop_has_the_documented_size():
    memory = RECIPES["laptop"]().model.memory
    assert memory.num_slots >= 16_384
    assert memory.num_heads * memory.top_k >= 32
    assert count_parameters(on_meta_device(RECIPES["laptop"](), dense=False)).base < 2e6
    assert len(RECIPES["laptop"]().sweep.seeds) == 3


def test_paper_1b_has_the_papers_numbers():
    """Lin et al. 2025, sections 3 to 5.1."""
    config = RECIPES["paper_1b"]()
    model, memory = config.model, config.model.memory
    assert (model.num_layers, model.hidden_size, memory.layers) == (22, 2048, (12,))
    assert (memory.num_slots, memory.num_half_keys) == (1_048_576, 1024)
    assert (memory.top_k, memory.num_heads, memory.value_dim, memory.key_dim) == (32, 4, 1024, 512)
    assert (config.stream.num_facts, config.stream.num_wordings, config.counting.num_batches) == (1000, 64, 1000)
    assert (config.method.name, config.method.num_trainable_slots, config.method.optimizer.kind) == (
        "sparse_memory",
        500,
        "sgd",
    )
    counted = count_parameters(on_meta_device(config, dense=False))
    assert counted.pool == 1_048_576 * 1024
    assert counted.active - counted.base == 32 * 4 * 1024


def test_paper_64m_is_the_papers_model_with_64_times_the_slots():
    paper, large = RECIPES["paper_1b"](), RECIPES["paper_64m"]()
    assert large.model.memory.num_slots == 64 * paper.model.memory.num_slots == 67_108_864
    assert replace(large.model, memory=replace(large.model.memory, num_half_keys=1024)) == paper.model
    assert (large.corpus, large.questions, large.stream, large.method) == (
        paper.corpus,
        paper.questions,
        paper.stream,
        paper.method,
    )
    counted, of_paper = (count_parameters(on_meta_device(config, dense=False)) for config in (large, paper))
    assert counted.pool == 67_108_864 * 1024
    # 7,168 more half-keys of 256 in each half and head; a token reads no more rows.
    assert counted.base - of_paper.base == 2 * 4 * 7168 * 256
    assert counted.active - counted.base == of_paper.active - of_paper.base


def test_memory_of_a_rank_of_paper_64m():
    """32 columns of 64 M rows, with first and second moments: 8 GiB each."""
    config = RECIPES["paper_64m"]()
    split = ColumnSplit(num_parts=config.pretraining.pool_split, part=31)
    with torch.device("meta"):
        model = build_model(model_config(config.model, dense=False, vocab_size=32_000), seed=0, split=split)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    (pool,) = model.model.value_pools
    assert (tuple(pool.weight.shape), pool.value_dim, pool.columns) == ((67_108_864, 32), 1024, slice(992, 1024))
    assert model.memory_layers[0].gate.out_features == 1024  # what is read is a whole row
    held = pool_bytes(
        config.model.memory,
        pool_split=config.pretraining.pool_split,
        batch_tokens=256 * 2048,
        micro_batch_tokens=8 * 2048,
    )
    assert held.values == pool.weight.numel() * pool.weight.element_size() == 8 * 2**30
    assert held.moments == 16 * 2**30
    # 256 blocks of 2,048 tokens read 4 * 32 slots each: 2^26 at most, which is all; 32 numbers
    # of 4 bytes and a slot of 8.
    assert held.gradient == 2**26 * (32 * 4 + 8)
    assert held.accesses == 8 * 2048 * 32 * 128 * 12
    assert (
        held.values + held.moments + 3 * held.gradient + held.accesses < 60 * 2**30
    )  # an 80 GB GPU has room for the rest
    assert "8.59 GB of values, 17.2 GB of moments" in str(held)
    assert count_parameters(model).pool == 67_108_864 * 1024


def test_smoke_is_small():
    config = RECIPES["smoke"]()
    assert config.pretraining.num_steps <= 100 and config.model.memory.num_slots <= 4096
    assert config.sweep.scale == "smoke" and len(config.sweep.seeds) >= 2


def smollm2_with(monkeypatch, data: str) -> Config:
    monkeypatch.setenv("MEMLM_DATA", data)
    return RECIPES["smollm2"]()


def test_smollm2_reads_wikipedia_where_it_is_and_else_what_the_base_writes(monkeypatch, tmp_path):
    alone = smollm2_with(monkeypatch, str(tmp_path)).corpus
    assert (alone.path, alone.reads_samples) == ("{samples}/train", True) and alone.samples is not None
    (tmp_path / "text" / "wiki2015-lead4k").mkdir(parents=True)
    with_text = smollm2_with(monkeypatch, str(tmp_path)).corpus
    assert (with_text.path, with_text.samples) == ("$MEMLM_DATA/text/wiki2015-lead4k", None)
    monkeypatch.delenv("MEMLM_DATA")
    assert RECIPES["smollm2"]().corpus == alone
    assert not replace(alone, path="/my/text", validation_path="").reads_samples


def test_smollm2_needs_nothing_but_what_comes_with_memlm(monkeypatch):
    monkeypatch.delenv("MEMLM_DATA", raising=False)
    config = RECIPES["smollm2"]()
    assert "$" not in repr(config) and config.world is None
    questions = config.questions
    assert questions.facts.base_answers == "wrong" and questions.facts.also_asked
    known, chat, *skills = questions.held_out
    assert (known.base_answers, chat.base_answers, chat.task) == ("right", "right", "chat")
    assert {known.path, chat.path} == {questions.facts.path}
    assert [each.name for each in skills] == ["gsm8k", "hellaswag"]


def test_smollm2_has_the_numbers_of_its_bar():
    config = RECIPES["smollm2"]()
    assert len(config.sweep.seeds) >= 3 and config.stream.num_facts == 50
    assert config.questions.held_out[0].num_questions == 300
    # 7.1 % of the questions are answered right, give or take 0.36 points with 5,000 asked.
    assert config.questions.known.num_asked * (0.071 - 3 * 0.0036) > 300
    memory = config.model.memory
    assert (memory.layers, memory.num_slots, memory.value_dim) == ((7,), 65_536, config.model.hidden_size)


def test_the_settings_of_smollm2_are_chosen_on_facts_that_it_does_not_learn():
    config, tuning = RECIPES["smollm2"](), RECIPES["smollm2_tuning"]()
    assert (config.stream.part, tuning.stream.part) == ("evaluation", "tuning")
    assert tuning.base_run == "smollm2" and tuning.sweep.methods == config.sweep.methods
    assert not {*tuning.sweep.seeds} & {*config.sweep.seeds}
    assert replace(tuning, recipe="", base_run="", stream=config.stream, sweep=config.sweep) == replace(
        config, recipe=""
    )
    spaces = zip(
        load_spaces(tuning.sweep.methods, tuning.sweep.scale),
        load_spaces(config.sweep.methods, config.sweep.scale),
        strict=True,
    )
    for tried, taken in spaces:
        assert len(tried.settings()) == 3 and {*taken.settings()} <= {*tried.settings()}


@pytest.mark.parametrize(
    "name",
    [
        "smollm2_tuning",
        "smollm2_triviaqa",
        "smollm2_seal",
        "smollm2_seal_alone",
        "smollm2_company",
        "smollm2_handbook",
    ],
)
def test_the_other_recipes_on_smollm2_start_from_its_checkpoints(name):
    config, base = RECIPES[name](), RECIPES["smollm2"]()
    assert config.base_run == "smollm2"
    for part in ("corpus", "model", "counting", "pretraining"):
        assert getattr(config, part) == getattr(base, part)


def test_a_memory_from_scratch_and_one_added_learn_the_same_facts_of_the_same_worlds():
    scratch, added = RECIPES["laptop_scratch"](), RECIPES["laptop_retrofit"]()
    made = RECIPES["laptop_checkpoints"]()
    for part in ("world", "corpus", "questions", "stream", "evaluation", "counting"):
        assert getattr(scratch, part) == getattr(added, part), part
    for part in ("world", "corpus", "model", "pretraining"):
        assert getattr(scratch, part) == getattr(made, part), "its checkpoints are those that exist"
    assert scratch.base_run == "laptop_checkpoints" and scratch.evaluation.seen_wordings
    assert {*scratch.sweep.checkpoints} <= {*made.sweep.checkpoints} and len(scratch.sweep.checkpoints) == 3
    for name in ("checkpoints", "seeds", "tuning_seeds"):
        assert getattr(scratch.sweep, name) == getattr(added.sweep, name)
    assert set(added.sweep.methods) < set(scratch.sweep.methods)
    memory = replace(added.model.memory, placement="replace")
    assert memory == scratch.model.memory and added.pretraining.num_steps == 0
    for each in checkpoint_runs(replace(added, run_name="added", storage="/runs")):
        assert named_base(each.config) == f"{{runs}}/laptop_checkpoints-checkpoint-{each.name}/checkpoint-dense"


def test_seals_passages_are_learned_in_eights_and_alone():
    sequences, alone = RECIPES["smollm2_seal"](), RECIPES["smollm2_seal_alone"]()
    assert (sequences.stream.num_documents, alone.stream.num_documents) == (8, 1)
    assert sequences.stream.order == alone.stream.order == "one_by_one"
    assert replace(alone, recipe="", stream=sequences.stream, sweep=sequences.sweep) == replace(sequences, recipe="")
    assert sequences.questions.documents.augmenter == "given" and not sequences.questions.documents.answered_only
    passages = [Fact(id=f"seal{number}#0", statements=("",), questions=()) for number in range(100)]
    learned = [facts_of_stream(alone.stream, passages, seed=seed)[0].id for seed in alone.sweep.seeds]
    assert len(set(learned)) == len(learned) == 16, "no passage is learned alone twice"
    first = [facts_of_stream(sequences.stream, passages, seed=seed) for seed in sequences.sweep.seeds]
    assert all(len(each) == 8 for each in first) and [each[0].id for each in first] == learned[:4]


def test_the_examples_of_ones_own_facts_are_learned_by_one_method_and_known_facts_are_asked():
    company, handbook, base = (
        replace(RECIPES[name](), storage="/runs", run_name=name)
        for name in ("smollm2_company", "smollm2_handbook", "smollm2")
    )
    for config in (company, handbook):
        assert config.method.label == "sparse_memory_decorrelated_2000"
        (known,) = config.questions.held_out
        assert (known.base_answers, known.num_questions) == ("right", 300)
        asked = [artifacts.known(each, known, questions="q", examples="e").uri for each in (config, base)]
        assert len(set(asked)) == 1, "what the base answers is found once"
    assert company.questions.facts.also_asked and company.questions.facts.rephrased
    assert company.method == handbook.method and company.evaluation == handbook.evaluation
