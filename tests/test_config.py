import dataclasses
import json
import re

import pytest

from memlm.cli import parse
from memlm.config import ClusterConfig, Config, SweepConfig, replace_field, varied
from memlm.data.config import (
    FactsConfig,
    HeldOutConfig,
    MixtureConfig,
    QuestionsConfig,
    QuestionSetConfig,
    StreamConfig,
)
from memlm.data.corpus.config import CorpusConfig
from memlm.data.world.world import WorldConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.identity import first_difference, identity
from memlm.methods.config import OptimizerConfig, RehearsalConfig
from memlm.methods.full import FullConfig
from memlm.methods.in_context import InContextConfig
from memlm.methods.lora import LoRAConfig
from memlm.methods.registry import METHOD_CONFIGS
from memlm.methods.retrieval import RetrievalConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.methods.sparse_memory_curvature import SparseMemoryCurvatureConfig
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.recipes import RECIPES
from memlm.training.config import AnalysisConfig, CountingConfig, PretrainingConfig

SMALL_MEMORY = MemoryConfig(layers=(0,), num_half_keys=8, top_k=4)


def held_out(*names: str) -> tuple[HeldOutConfig, ...]:
    return tuple(HeldOutConfig(name=name, path="questions.jsonl") for name in names)


BAD = [
    (SweepConfig, {"methods": ()}, "sweep.methods"),
    (SweepConfig, {"seeds": ()}, "sweep.seeds"),
    (SweepConfig, {"methods": ("lora", "full", "lora")}, "sweep.methods"),
    (SweepConfig, {"seeds": (1, 2, 1)}, "sweep.seeds"),
    (
        SweepConfig,
        {"seeds": (1, 2), "tuning_seeds": (3, 2)},
        r"sweep.tuning_seeds (3, 2) and sweep.seeds (1, 2) both contain 2",
    ),
    (SweepConfig, {"tuning_seeds": (9, 9)}, "sweep.tuning_seeds (9, 9) must not repeat"),
    (SweepConfig, {"checkpoints": (4, 5, 4)}, "sweep.checkpoints (4, 5, 4) must not repeat"),
    (SweepConfig, {"trunk_cache_bytes": -1}, "sweep.trunk_cache_bytes"),
    (ClusterConfig, {"num_workers": 0}, "cluster.num_workers is 0"),
    (ClusterConfig, {"threads_per_worker": 0}, "cluster.threads_per_worker is 0"),
    (ClusterConfig, {"num_trials_at_once": -1}, "cluster.num_trials_at_once"),
    (ClusterConfig, {"max_failures": -1}, "cluster.max_failures"),
    (QuestionSetConfig, {"path": "a.jsonl", "num_questions": -1}, "num_questions of a.jsonl is -1"),
    (FactsConfig, {"path": "a.jsonl", "num_questions": -1}, "num_questions of a.jsonl is -1"),
    (
        FactsConfig,
        {"path": "a.jsonl", "statements": "b.jsonl", "also_asked": True},
        "questions.facts.also_asked is True, and the wordings are those of questions.facts.statements ('b.jsonl')",
    ),
    (EvaluationConfig, {"max_chat_tokens": 0}, "evaluation.max_chat_tokens is 0"),
    (HeldOutConfig, {"name": "a", "path": "a.jsonl", "num_questions": -1}, "num_questions of a.jsonl is -1"),
    (CorpusConfig, {"block_size": 1}, "corpus.block_size is 1"),
    (CorpusConfig, {"vocab_size": 299}, "corpus.vocab_size is 299"),
    (CorpusConfig, {"max_shards": -1}, "corpus.max_shards is -1"),
    (CorpusConfig, {"tokenizer_documents": 0}, "corpus.tokenizer_documents is 0"),
    (QuestionsConfig, {"held_out": held_out("nq", "nq")}, "questions.held_out"),
    (QuestionsConfig, {"held_out": held_out("new_facts")}, "questions.held_out"),
    (QuestionsConfig, {"held_out": held_out("nq", "text")}, "questions.held_out"),
    (QuestionSetConfig, {"path": "a.jsonl", "skip": -1}, "skip of a.jsonl is -1"),
    (MixtureConfig, {"path": "a.jsonl", "exposures": 0}, "corpus.mixture.exposures is 0"),
    (MixtureConfig, {"path": "a.jsonl", "question_share": 1.5}, "corpus.mixture.question_share is 1.5"),
    (MixtureConfig, {"path": "a.jsonl", "num_reserved": -1}, "corpus.mixture.num_reserved is -1"),
    (CorpusConfig, {"max_validation_shards": -1}, "corpus.max_validation_shards is -1"),
    (SparseMemoryConfig, {"max_document_frequency": 1.5}, "method.max_document_frequency is 1.5"),
    (SparseMemoryConfig, {"living_background": -1}, "method.living_background is -1"),
    (SparseMemoryConfig, {"protection": -1.0}, "method.protection is -1.0"),
    (SparseMemoryConfig, {"protection": 1.0, "optimizer": OptimizerConfig(kind="adamw")}, "scales the steps of SGD"),
    (InContextConfig, {"num_statements": 0}, "method.num_statements is 0"),
    (RetrievalConfig, {"num_statements": 0}, "method.num_statements is 0"),
    (RehearsalConfig, {"blocks_per_step": 0}, "method.rehearsal.blocks_per_step is 0"),
    (RehearsalConfig, {"weight": 0.0}, "method.rehearsal.weight is 0.0"),
    *((StreamConfig, {name: 0}, f"stream.{name} is 0") for name in ("num_facts", "num_wordings", "num_passes")),
    (StreamConfig, {"max_length": 0}, "stream.max_length is 0"),
    (EvaluationConfig, {"max_new_tokens": 0}, "evaluation.max_new_tokens is 0"),
    (EvaluationConfig, {"batch_size": 0}, "evaluation.batch_size is 0"),
    (EvaluationConfig, {"num_text_blocks": 0}, "evaluation.num_text_blocks is 0"),
    *((CountingConfig, {name: 0}, f"counting.{name} is 0") for name in ("num_batches", "batch_blocks")),
    (CountingConfig, {"batches_per_unit": 0}, "counting.batches_per_unit is 0"),
    *((AnalysisConfig, {name: 0}, f"analysis.{name} is 0") for name in ("num_facts", "num_steps")),
    *((AnalysisConfig, {"slot_counts": counts}, "analysis.slot_counts is") for counts in ((), (25, 0))),
    (AnalysisConfig, {"num_page_facts": -1}, "analysis.num_page_facts is -1"),
    (PretrainingConfig, {"num_steps": -1}, "pretraining.num_steps is -1"),
    (PretrainingConfig, {"distillation_weight": -0.5}, "pretraining.distillation_weight is -0.5"),
    (PretrainingConfig, {"distillation_temperature": 0.0}, "pretraining.distillation_temperature is 0.0"),
    (PretrainingConfig, {"batch_blocks": 0}, "pretraining.batch_blocks is 0"),
    (PretrainingConfig, {"micro_batch_blocks": 0}, "pretraining.micro_batch_blocks is 0"),
    (PretrainingConfig, {"checkpoint_every": 0}, "pretraining.checkpoint_every is 0"),
    (PretrainingConfig, {"log_every": 0}, "pretraining.log_every is 0"),
    (PretrainingConfig, {"pool_split": 0}, "pretraining.pool_split is 0"),
    (PretrainingConfig, {"pool_split": 2, "pool_optimizer": "adamw"}, 'only "lazy_adam" trains a pool that is split'),
    (PretrainingConfig, {"batch_blocks": 32, "micro_batch_blocks": 12}, "set pretraining.micro_batch_blocks to 8"),
    (PretrainingConfig, {"learning_rate": 0.0}, "pretraining.learning_rate is 0"),
    (PretrainingConfig, {"value_learning_rate": -1.0}, "pretraining.value_learning_rate is -1"),
    (PretrainingConfig, {"clip_norm": 0.0}, "pretraining.clip_norm is 0"),
    (PretrainingConfig, {"warmup_steps": -1}, "pretraining.warmup_steps is -1"),
    *((OptimizerConfig, {"learning_rate": rate}, "method.optimizer.learning_rate") for rate in (0.0, -1.0)),
    (OptimizerConfig, {"learning_rate": float("nan")}, "method.optimizer.learning_rate"),
    (OptimizerConfig, {"weight_decay": -0.1}, "method.optimizer.weight_decay is -0.1"),
    (SparseMemoryConfig, {"num_trainable_slots": -1}, "method.num_trainable_slots is -1"),
    (LoRAConfig, {"rank": 0}, "method.rank is 0"),
    (LoRAConfig, {"alpha": 0.0}, "method.alpha is 0"),
    *(
        (MemoryConfig, {name: 0}, f"model.memory.{name} is 0")
        for name in ("num_half_keys", "top_k", "num_heads", "key_dim", "value_dim")
    ),
    (MemoryConfig, {"key_dim": 7}, "model.memory.key_dim is 7"),
    (MemoryConfig, {"num_half_keys": 8, "top_k": 9}, "model.memory.top_k is 9"),
    (MemoryConfig, {"layers": (3, 3)}, "model.memory.layers is (3, 3)"),
    (MemoryConfig, {"layers": (3, 1)}, "model.memory.layers is (3, 1)"),
    (ModelConfig, {"hidden_size": 10, "num_attention_heads": 4}, "model.hidden_size is 10"),
    (ModelConfig, {"hidden_size": 4, "num_attention_heads": 4}, "twice model.num_attention_heads (4)"),
    (ModelConfig, {"num_attention_heads": 0}, "model.num_attention_heads is 0"),
    (ModelConfig, {"intermediate_size": -1}, "model.intermediate_size is -1"),
    (ModelConfig, {"max_positions": 0}, "model.max_positions is 0"),
    (ModelConfig, {"rope_theta": 0.0}, "model.rope_theta is 0"),
    (ModelConfig, {"initializer_range": -1.0}, "model.initializer_range is -1"),
    (PretrainingConfig, {"weight_decay": -1.0}, "pretraining.weight_decay is -1"),
    (PretrainingConfig, {"final_learning_rate": -1.0}, "pretraining.final_learning_rate is -1"),
    (ModelConfig, {"num_layers": 12}, "model.memory.layers names [12]"),
    (ModelConfig, {"memory": dataclasses.replace(SMALL_MEMORY, layers=(-1,))}, "model.memory.layers names [-1]"),
    (WorldConfig, {"num_new": 0}, "world.num_new is 0"),
    (WorldConfig, {"num_known": 10**6}, "world.num_known"),
    *((WorldConfig, {"arithmetic_share": share}, f"world.arithmetic_share is {share}") for share in (0, 1)),
    (WorldConfig, {"max_operand": 3}, "world.max_operand is 3"),
    (WorldConfig, {"num_known": 10, "num_questions": 51}, "world.num_questions is 51"),
]


@pytest.mark.parametrize("kind, fields, named", BAD, ids=[f"{kind.__name__}-{fields}" for kind, fields, _ in BAD])
def test_a_value_that_cannot_work_is_refused_with_field_value_and_rule(kind, fields, named):
    with pytest.raises(ValueError) as refused:
        kind(**fields)
    message = str(refused.value)
    assert named in message and "\n" not in message
    assert len(message) > len(named) + 10  # the rule follows


def test_the_neighbours_of_refused_values_are_allowed():
    """Values at the edges of the rules above are accepted."""
    CorpusConfig(block_size=2, vocab_size=300, max_shards=0)
    QuestionsConfig(held_out=held_out("a", "b"))
    MixtureConfig(path="a.jsonl", exposures=1, question_share=0.0)
    SparseMemoryConfig(num_trainable_slots=0, max_document_frequency=0.0)
    CorpusConfig(tokenizer="gpt2", vocab_size=1)
    StreamConfig(num_facts=1, num_wordings=1, num_passes=1, max_length=1)
    PretrainingConfig(
        num_steps=1, batch_blocks=1, micro_batch_blocks=1, warmup_steps=0, checkpoint_every=1, log_every=1
    )
    CountingConfig(num_batches=1, batch_blocks=1, batches_per_unit=1)
    MemoryConfig(layers=(), num_half_keys=1, top_k=1, num_heads=1, key_dim=2, value_dim=1)
    ModelConfig(num_layers=13)
    ClusterConfig(num_workers=1, threads_per_worker=1, num_trials_at_once=0, max_failures=0)
    SweepConfig(methods=("lora",), seeds=(0,))
    OptimizerConfig(learning_rate=1e-9, weight_decay=0.0)
    WorldConfig(num_known=10, num_questions=50, max_operand=4)


@pytest.mark.parametrize(
    "path, value, named",
    [
        ("method.num_trainable_slots", 1025, "method.num_trainable_slots is 1025, more than the 1024 slots"),
        ("model.memory.num_half_keys", 22, "method.num_trainable_slots is 500, more than the 484 slots"),
        (
            "cluster.num_workers",
            2,
            "pretraining.batch_blocks is 16, which is not a multiple of .* cluster.num_workers (2)",
        ),
        (
            "pretraining.pool_split",
            2,
            "pretraining.pool_split is 2, and cluster.num_workers (1) is not a multiple of it; set cluster.num_workers",
        ),
        (
            "pretraining.pool_split",
            5,
            "pretraining.pool_split is 5, and model.memory.value_dim (32) is not a multiple of it",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(path, value, named):
    pattern = re.escape(named).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=pattern):
        replace_field(RECIPES["smoke"](), path, value)


def test_parts_that_just_fit_together_are_allowed():
    replace_field(RECIPES["smoke"](), "method.num_trainable_slots", 1024)
    half = replace_field(RECIPES["smoke"](), "pretraining.micro_batch_blocks", 8)
    two = replace_field(half, "cluster.num_workers", 2)
    assert two.cluster.num_workers == 2
    assert replace_field(two, "pretraining.pool_split", 2).pretraining.pool_split == 2
    dense = replace_field(RECIPES["smoke"](), "architecture", "dense")
    assert replace_field(dense, "pretraining.pool_split", 2).cluster.num_workers == 1  # which has no pool to split


@pytest.mark.parametrize("name", METHOD_CONFIGS)
def test_every_method_names_itself_and_its_base_model(name):
    config = METHOD_CONFIGS[name]()
    # The adapters of PEFT are many methods under one name, each with its kind's label.
    assert (config.name, config.label) == (name, "ia3" if name == "peft" else name)
    assert config.base in ("memory", "dense")


def test_another_ranking_or_optimizer_is_a_control_with_a_label_of_its_own():
    adamw = OptimizerConfig(kind="adamw", learning_rate=1e-3)
    labels = [
        SparseMemoryConfig(ranking=ranking, optimizer=optimizer).label
        for ranking in ("tfidf", "tf", "random")
        for optimizer in (SparseMemoryConfig().optimizer, adamw)
    ]
    assert labels[0] == "sparse_memory" and len(set(labels)) == 6


def test_a_field_is_replaced_at_any_depth_and_the_original_stays():
    config = RECIPES["smoke"]()
    changed = replace_field(config, "model.memory.top_k", 2)
    assert (changed.model.memory.top_k, config.model.memory.top_k) == (2, 4)
    assert replace_field(changed, "model.memory.top_k", 4) == config
    assert replace_field(config, "seed", 5) == dataclasses.replace(config, seed=5)
    whole = MemoryConfig(layers=(0,), num_half_keys=32, top_k=1)
    assert replace_field(config, "model.memory", whole).model.memory is whole


@pytest.mark.parametrize(
    "path, kind, missing, known",
    [
        ("sede", "Config", "sede", "seed"),
        ("model.memory.k", "MemoryConfig", "k", "top_k"),
        ("method.rank", "SparseMemoryConfig", "rank", "num_trainable_slots"),
        ("", "Config", "", "seed"),
    ],
)
def test_an_unknown_field_is_refused_with_the_existing_ones(path, kind, missing, known):
    with pytest.raises(ValueError, match=f"{kind} has no field {missing!r}; it has .*{known}"):
        replace_field(RECIPES["smoke"](), path, 1)


def test_replacing_a_field_obeys_the_rules_of_its_config():
    with pytest.raises(ValueError, match="model.memory.top_k is 99"):
        replace_field(RECIPES["smoke"](), "model.memory.top_k", 99)


def parts_of(config: Config) -> list:
    names = ("corpus", "model", "pretraining", "counting", "stream", "method", "evaluation")
    return [getattr(config, name) for name in names] + ([config.world] if config.world else [])


@pytest.mark.parametrize("recipe", RECIPES)
def test_identity_survives_a_round_trip_through_json(recipe):
    for part in parts_of(RECIPES[recipe]()):
        named = identity(part)
        assert first_difference(json.loads(json.dumps(named)), named) is None


def test_identity_of_another_value_differs_in_that_field():
    config = RECIPES["smoke"]()
    for path in ("corpus.vocab_size", "model.memory.top_k", "stream.num_facts", "method.optimizer.learning_rate"):
        part = path.split(".")[0]
        changed = replace_field(config, path, 301) if path.endswith("size") else replace_field(config, path, 3)
        field, _, _ = first_difference(identity(getattr(config, part)), identity(getattr(changed, part)))
        assert f"{part}.{field}" == path


def test_identity_of_methods_with_equal_settings_differs_by_name():
    optimizer = OptimizerConfig()
    same = [identity(FullConfig(optimizer=optimizer)), identity(LoRAConfig(optimizer=optimizer))]
    assert [part["name"] for part in same] == ["full", "lora"]


def test_an_address_of_a_server_holds_no_password():
    with pytest.raises(
        ValueError, match=r"tracking is https://\.\.\.@mlflow\.example/x; .*MLFLOW_TRACKING_PASSWORD"
    ) as error:
        dataclasses.replace(RECIPES["smoke"](), tracking="https://admin:s3cr3t@mlflow.example/x")
    assert "s3cr3t" not in str(error.value)
    dataclasses.replace(RECIPES["smoke"](), tracking="https://mlflow.example/@x")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"storage": " "}, "storage is empty"),
        ({"run_name": "MLflow"}, "--run-name is 'MLflow', which is reserved for MLflow's files"),
        ({"register_model": "my/model"}, "--register-model is 'my/model'"),
        ({"register_model": "a\nb"}, "--register-model is 'a\\nb'"),
        ({"register_model": "x" * 300}, "--register-model has 300 characters"),
    ],
)
def test_a_name_that_would_end_a_run_late_is_refused(changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        dataclasses.replace(RECIPES["smoke"](), **changes)


def test_a_varied_sweep_is_one_run_for_each_value():
    config = parse("", ["laptop_saturation"], stage="pareto_sweep")
    each = [varied(config, value) for value in config.sweep.values]
    assert [one.stream.num_facts for one in each] == [10, 30, 100, 300, 1000]
    assert [one.run_name for one in each][:2] == ["laptop_saturation-10", "laptop_saturation-30"]
    assert {one.sweep.vary for one in each} == {""} and {one.base_run for one in each} == {"laptop"}
    again = parse("", ["laptop_saturation", *each[1].arguments])
    assert (again.stream, again.run_name) == (each[1].stream, each[1].run_name)


def test_a_field_that_cannot_be_varied_is_refused():
    with pytest.raises(SystemExit):
        parse("", ["laptop_saturation", "--sweep.vary", "stream.num_fact"], stage="pareto_sweep")
    with pytest.raises(ValueError, match=r"sweep.vary is 'stream.num_facts' and sweep.values are \(\)"):
        SweepConfig(vary="stream.num_facts")
    with pytest.raises(ValueError, match="different values"):
        SweepConfig(vary="stream.num_facts", values=(3, 3))


def test_the_step_by_curvature_needs_sensitivities():
    without = CountingConfig(sensitivities=False)
    with pytest.raises(ValueError, match=r"counting.sensitivities is False, and method sparse_memory_curvature"):
        Config(recipe="mine", counting=without, method=SparseMemoryCurvatureConfig())
    Config(recipe="mine", counting=without, method=SparseMemoryDecorrelatedConfig())
