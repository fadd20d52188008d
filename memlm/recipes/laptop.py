"""Recipes on the generated world, for two CPU cores."""

from dataclasses import replace
from typing import Any

from memlm.config import Config, SweepConfig
from memlm.data.config import QuestionsConfig, StreamConfig, UpdatesConfig
from memlm.data.corpus.config import CorpusConfig
from memlm.data.world.world import WorldConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.training.config import CountingConfig, PretrainingConfig

LAPTOP_MODEL = ModelConfig(
    num_layers=4,
    hidden_size=128,
    num_attention_heads=4,
    intermediate_size=384,
    max_positions=512,
    initializer_range=0.05,
    memory=MemoryConfig(
        layers=(2,), num_half_keys=192, top_k=16, num_heads=2, key_dim=64, value_dim=128, query_norm=True
    ),
)

RULE = "sparse_memory_decorrelated"
WITH_RULE = ("sparse_memory", RULE, "lora", "full")
"""The methods compared, and the rule of ours."""


def laptop() -> Config:
    """The generated world on two CPU cores: a complete run to the frontier in half an hour."""
    return Config(
        recipe="laptop",
        model=LAPTOP_MODEL,
        pretraining=PretrainingConfig(num_steps=1200, warmup_steps=60, checkpoint_every=200),
        counting=CountingConfig(num_batches=160, batch_blocks=16, batches_per_unit=20, read_tokens=327_680),
        sweep=SweepConfig(tuning_seeds=(10,)),
    )


def smoke() -> Config:
    """Every stage in two minutes, to check that it runs. The scores mean nothing."""
    return Config(
        recipe="smoke",
        world=WorldConfig(
            num_known=60,
            num_new=20,
            num_documents=1200,
            num_shards=2,
            num_validation_documents=40,
            max_operand=12,
            num_questions=30,
        ),
        corpus=CorpusConfig(vocab_size=512, block_size=64),
        model=replace(
            LAPTOP_MODEL,
            num_layers=2,
            hidden_size=64,
            num_attention_heads=2,
            intermediate_size=128,
            memory=MemoryConfig(
                layers=(1,), num_half_keys=32, top_k=4, num_heads=2, key_dim=32, value_dim=32, query_norm=True
            ),
        ),
        pretraining=PretrainingConfig(
            num_steps=60, batch_blocks=16, micro_batch_blocks=16, warmup_steps=5, checkpoint_every=20, log_every=20
        ),
        counting=CountingConfig(num_batches=20, batches_per_unit=5),
        stream=StreamConfig(num_facts=6, num_wordings=4, num_passes=2),
        evaluation=EvaluationConfig(num_text_blocks=8),
        sweep=SweepConfig(scale="smoke", seeds=(0, 1)),
    )


def laptop_rule() -> Config:
    """Rules of sparse memory against full finetuning and LoRA, with ten seeds: a complete run in 80
    minutes on two CPU cores."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_rule",
        sweep=replace(
            base.sweep,
            scale="laptop_rule",
            methods=(
                "sparse_memory",
                "sparse_memory_decorrelated_2000",
                "sparse_memory_curvature_2000",
                "full",
                "lora",
            ),
            seeds=tuple(range(10)),
            tuning_seeds=(10, 11),
        ),
    )


def laptop_checkpoints() -> Config:
    """`laptop` and a rule of ours over five pairs of a world and a pretraining, with one frontier
    over all."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_checkpoints",
        sweep=replace(base.sweep, methods=WITH_RULE, checkpoints=(0, 1, 2, 3, 4)),
    )


def laptop_value_loss() -> Config:
    """The methods of `laptop_rule` with the loss on the answers alone, on the checkpoints of
    `laptop`."""
    base = laptop_rule()
    return replace(
        base,
        recipe="laptop_value_loss",
        base_run="laptop",
        stream=StreamConfig(loss_on="values"),
        sweep=replace(base.sweep, seeds=(0, 1, 2, 3, 4), tuning_seeds=(10,), compare_with=("laptop_rule",)),
    )


def laptop_many_facts() -> Config:
    """All thousand facts by the rules of sparse memory, on the checkpoints of `laptop`. No fact is
    left for tuning, so settings are chosen on the results themselves."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_many_facts",
        base_run="laptop",
        stream=StreamConfig(num_facts=1000),
        sweep=replace(
            base.sweep,
            scale="laptop_many_facts",
            methods=(
                "sparse_memory",
                "sparse_memory_decorrelated_500",
                "sparse_memory_decorrelated_500_continual",
            ),
            tuning_seeds=(),
        ),
    )


WIDE = (
    *("sparse_memory", "lora", "full", "lora_memory", "lora_sgd", "full_sgd"),
    *("lora_replay", "full_replay", "lora_distillation", "full_distillation"),
    *("full_ewc", "full_l2_sp", "lora_wise_ft", "full_wise_ft"),
)


def laptop_wide() -> Config:
    """Twelve settings for every method, on the checkpoints of `laptop`, in three hours on two CPU
    cores; --sweep.methods takes some of them."""
    base = laptop()
    return replace(
        base, recipe="laptop_wide", base_run="laptop", sweep=replace(base.sweep, scale="laptop_wide", methods=WIDE)
    )


CONTROLS = (
    "sparse_memory_all",
    "sparse_memory_tf",
    "sparse_memory_random",
    "sparse_memory_kl",
    "sparse_memory_adamw",
    "sparse_memory_row_sparse_adamw",
    "sparse_memory_decorrelated",
    "sparse_memory_decorrelated_continual",
    "sparse_memory_decorrelated_owned",
    "full_memory",
)
OURS = ("sparse_memory_gradient", "sparse_memory_capped", "sparse_memory_living", "sparse_memory_protected")
RIVALS = ("lora_replay", "full_replay", "lora_distillation", "full_distillation", "in_context", "retrieval")
REGULARIZED = ("full_ewc", "full_l2_sp", "full_wise_ft", "lora_wise_ft")
"""Rivals that keep the weights near those of the start."""


def laptop_controls() -> Config:
    """All controls and rival methods next to the three main ones, with four settings each, on the
    checkpoints of `laptop`."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_controls",
        base_run="laptop",
        questions=_world_questions(facts=(0, 500), known=(0, 200), sums=(0, 90)),
        sweep=replace(
            base.sweep,
            scale="controls",
            methods=(*base.sweep.methods, *CONTROLS, *OURS, *RIVALS, *REGULARIZED),
        ),
    )


def laptop_tuning() -> Config:
    """Tuning of our own ranking rules, on facts and questions that `laptop_controls` does not
    use."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_tuning",
        base_run="laptop",
        questions=_world_questions(facts=(500, 500), known=(200, 100), sums=(90, 0)),
        sweep=replace(base.sweep, methods=("sparse_memory", *OURS), seeds=(10, 11), tuning_seeds=()),
    )


def _world_questions(*, facts: tuple[int, int], known: tuple[int, int], sums: tuple[int, int]) -> QuestionsConfig:
    """The laptop's questions, as (number to skip, number to take) for each set."""
    questions = QuestionsConfig()
    parts = dict(zip(("known_facts", "arithmetic"), (known, sums), strict=True))
    return replace(
        questions,
        facts=replace(questions.facts, skip=facts[0], num_questions=facts[1]),
        held_out=tuple(
            replace(held_out, skip=parts[held_out.name][0], num_questions=parts[held_out.name][1])
            for held_out in questions.held_out
        ),
    )


def laptop_ablations() -> Config:
    """Ablations of the method on the checkpoints of `laptop`: t, ranking, background, the text that
    our rule spares, trained parts."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_ablations",
        base_run="laptop",
        sweep=replace(
            base.sweep,
            methods=(
                "ablate_slots",
                "ablate_background",
                "ablate_spared_text",
                "ablate_parts",
            ),
        ),
    )


def laptop_updates() -> Config:
    """Known facts that get new answers, on the checkpoints of `laptop`: whether the old answer is
    gone, and what becomes of facts of the same subject and of the same relation."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_updates",
        base_run="laptop",
        questions=replace(base.questions, updates=UpdatesConfig()),
        sweep=replace(base.sweep, methods=WITH_RULE),
    )


def laptop_saturation() -> Config:
    """From 10 to 1,000 facts, on the checkpoints of `laptop`, at one setting per method."""
    return _series("laptop_saturation", "stream.num_facts", (10, 30, 100, 300, 1000), base_run="laptop")


def laptop_passes() -> Config:
    """The hundred facts of `laptop` in 1 to 32 passes: as many steps as `laptop_saturation` takes,
    on the same facts."""
    return _series("laptop_passes", "stream.num_passes", (1, 2, 4, 8, 16, 32), base_run="laptop")


def laptop_pools() -> Config:
    """From 4,096 to 65,536 slots, each pool with a pretraining of its own."""
    series = _series("laptop_pools", "model.memory.num_half_keys", (64, 96, 128, 192, 256))
    return replace(series, sweep=replace(series.sweep, scale="pools", methods=("sparse_memory", RULE)))


def _series(recipe: str, vary: str, values: tuple[int, ...], *, base_run: str = "") -> Config:
    base = laptop()
    sweep = replace(base.sweep, scale="saturation", methods=WITH_RULE, tuning_seeds=(), vary=vary, values=values)
    return replace(base, recipe=recipe, base_run=base_run, sweep=sweep)


def laptop_layers() -> Config:
    """Ablation: three memory layers that share one pool (Berges et al. 2024, Memory+), with a
    pretraining of its own."""
    return _with_memory("laptop_layers", layers=(1, 2, 3))


def laptop_slots() -> Config:
    """Ablation: a ninth of the slots, with a pretraining of its own."""
    return _with_memory("laptop_slots", num_half_keys=64)


def _with_memory(recipe: str, **changed: Any) -> Config:
    base = laptop()
    return replace(
        base,
        recipe=recipe,
        model=replace(base.model, memory=replace(base.model.memory, **changed)),
        sweep=replace(base.sweep, methods=WITH_RULE),
    )
