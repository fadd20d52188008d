"""Recipes: named configs. Each is a function; a variant copies another recipe and changes some
fields."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memlm.config import ClusterConfig, Config, SweepConfig
from memlm.data.config import (
    CorpusConfig,
    DocumentsConfig,
    DocumentStreamConfig,
    FactsConfig,
    HeldOutConfig,
    MixtureConfig,
    QuestionsConfig,
    QuestionSetConfig,
    StreamConfig,
    UpdatesConfig,
)
from memlm.data.world.world import WorldConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.methods.config import OptimizerConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.training.config import CountingConfig, PretrainingConfig

DCLM = "hf://datasets/mlfoundations/dclm-baseline-1.0@a3b142c183aebe5af344955ae20836eb34dcf69b"

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


def laptop() -> Config:
    """The generated world on two CPU cores: a complete run to the frontier in 25 minutes."""
    return Config(
        recipe="laptop",
        model=LAPTOP_MODEL,
        pretraining=PretrainingConfig(num_steps=1200, warmup_steps=60, checkpoint_every=200),
        counting=CountingConfig(num_batches=160, batch_blocks=16, batches_per_unit=20),
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


WIKI_MODEL = replace(
    LAPTOP_MODEL,
    memory=replace(LAPTOP_MODEL.memory, num_half_keys=512, num_heads=4),
)


def wiki() -> Config:
    """Real text and facts: Wikipedia mixed with EntityQuestions' facts, and new facts of the same
    relations to learn. The environment variable MEMLM_DATA names their folder."""
    entity_questions = QuestionSetConfig(
        path="$MEMLM_DATA/qa/entityquestions_train.jsonl.zst", layout="entityquestions", shuffle=True
    )
    return Config(
        recipe="wiki",
        world=None,
        corpus=CorpusConfig(
            path="$MEMLM_DATA/text/wiki2015-lead4k",
            validation_path="$MEMLM_DATA/text/wiki2018new",
            max_shards=1,
            max_validation_shards=1,
            vocab_size=4096,
            block_size=128,
            mixture=MixtureConfig(
                path=entity_questions.path,
                layout=entity_questions.layout,
                shuffle=True,
                num_questions=2400,
                exposures=220,
                question_share=0.35,
                num_reserved=300,
            ),
        ),
        questions=QuestionsConfig(
            facts=FactsConfig(
                path="$MEMLM_DATA/qa/entityquestions_dev.jsonl.zst",
                layout="entityquestions",
                shuffle=True,
                num_questions=1000,
            ),
            held_out=(
                HeldOutConfig(
                    name="known_facts",
                    path=entity_questions.path,
                    layout="entityquestions",
                    shuffle=True,
                    num_questions=300,
                ),
                HeldOutConfig(name="nq_open", path="$MEMLM_DATA/qa/nq_open.jsonl", layout="nq_open", num_questions=105),
                HeldOutConfig(name="gsm8k", path="$MEMLM_DATA/qa/gsm8k_train.jsonl", layout="gsm8k", num_questions=50),
                HeldOutConfig(
                    name="hellaswag",
                    path="$MEMLM_DATA/qa/hellaswag_cleaned.jsonl",
                    layout="hellaswag",
                    num_questions=100,
                ),
            ),
            remove_overlap=True,
        ),
        model=WIKI_MODEL,
        pretraining=PretrainingConfig(num_steps=1800, warmup_steps=90, checkpoint_every=300),
        counting=CountingConfig(num_batches=1000, batch_blocks=16),
        evaluation=EvaluationConfig(max_new_tokens=16, max_solution_tokens=0),
        stream=StreamConfig(num_passes=16),
        sweep=SweepConfig(
            scale="wiki", methods=("sparse_memory", "lora", "full", "sparse_memory_protected"), tuning_seeds=(10,)
        ),
    )


CONTROLS = (
    "sparse_memory_all",
    "sparse_memory_tf",
    "sparse_memory_random",
    "sparse_memory_kl",
    "sparse_memory_adamw",
    "full_memory",
)
OURS = ("sparse_memory_gradient", "sparse_memory_capped", "sparse_memory_living", "sparse_memory_protected")
RIVALS = ("lora_replay", "full_replay", "lora_distillation", "full_distillation", "in_context", "retrieval")


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
            methods=("sparse_memory", "full", "lora"),
            seeds=tuple(range(10)),
            tuning_seeds=(10, 11),
        ),
    )


def laptop_checkpoints() -> Config:
    """`laptop` over five pairs of a world and a pretraining, with one frontier over all."""
    base = laptop()
    return replace(base, recipe="laptop_checkpoints", sweep=replace(base.sweep, checkpoints=(0, 1, 2, 3, 4)))


def laptop_controls() -> Config:
    """All controls and rival methods next to the three main ones, on the checkpoints of
    `laptop`."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_controls",
        base_run="laptop",
        questions=_world_questions(facts=(0, 500), known=(0, 200), sums=(0, 90)),
        sweep=replace(base.sweep, methods=(*base.sweep.methods, *CONTROLS, *OURS, *RIVALS)),
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
    """Ablations of the method on the checkpoints of `laptop`: t, ranking, background, trained
    parts."""
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
    )


def laptop_layers() -> Config:
    """Ablation: three memory layers that share one pool (Berges et al. 2024, Memory+), with a
    pretraining of its own."""
    return _with_memory("laptop_layers", layers=(1, 2, 3))


def laptop_slots() -> Config:
    """Ablation: a ninth of the slots, with a pretraining of its own."""
    return _with_memory("laptop_slots", num_half_keys=64)


def _with_memory(recipe: str, **changed: Any) -> Config:
    base = laptop()
    return replace(base, recipe=recipe, model=replace(base.model, memory=replace(base.model.memory, **changed)))


def wiki_rivals() -> Config:
    """Replay, distillation and the rivals with a frozen model, on the stream and the checkpoints of
    `wiki`, whose trials are reused."""
    base = wiki()
    return replace(
        base,
        recipe="wiki_rivals",
        base_run="wiki",
        sweep=replace(base.sweep, methods=(*base.sweep.methods, *RIVALS), compare_with=("wiki_triviaqa",)),
    )


def wiki_tuning() -> Config:
    """Tuning of our own ranking rules, on facts that `wiki` neither learns nor asks about."""
    base = wiki()
    facts, known = base.questions.facts, base.questions.held_out[0]
    return replace(
        base,
        recipe="wiki_tuning",
        base_run="wiki",
        questions=replace(
            base.questions,
            facts=replace(facts, skip=facts.num_questions),
            held_out=(replace(known, skip=known.num_questions),),
        ),
        sweep=replace(base.sweep, methods=("sparse_memory", *OURS), seeds=(10, 11), tuning_seeds=()),
    )


def wiki_triviaqa() -> Config:
    """TriviaQA's facts on the checkpoints of `wiki`: relations and subjects that are mostly new to
    the model."""
    base = wiki()
    return replace(
        base,
        recipe="wiki_triviaqa",
        base_run="wiki",
        questions=replace(
            base.questions, facts=FactsConfig(path="$MEMLM_DATA/qa/triviaqa.jsonl", layout="triviaqa", shuffle=True)
        ),
        sweep=replace(base.sweep, scale="triviaqa", methods=("sparse_memory", "lora", "full"), compare_with=("wiki",)),
    )


def wiki_documents() -> Config:
    """SimpleQA's questions learned from Wikipedia documents (Lin et al. 2025, section 5.2), on the
    checkpoints of `wiki`. Only the chunks that answer a question are learned, restated by rules."""
    base = wiki()
    return replace(
        base,
        recipe="wiki_documents",
        base_run="wiki",
        questions=replace(
            base.questions,
            documents=DocumentsConfig(
                path="$MEMLM_DATA/qa/simpleqa_wiki_docs.jsonl.zst",
                questions="$MEMLM_DATA/qa/simpleqa_wiki_questions.jsonl",
                answering_chunks_only=True,
                chunk_tokens=96,
                min_chunk_tokens=16,
                max_augmentation_tokens=159,
                num_augmentations=32,
            ),
        ),
        stream=DocumentStreamConfig(num_augmentations=8, num_passes=4, max_length=160),
        method=SparseMemoryConfig(num_trainable_slots=10_000, optimizer=OptimizerConfig(kind="sgd", learning_rate=5.0)),
        sweep=replace(base.sweep, scale="documents", methods=("sparse_memory", "lora", "full")),
    )


def paper_1b() -> Config:
    """The paper's model and streams (Lin et al. 2025, sections 4 and 5.1). Needs a GPU cluster.
    Pretrains on 31 billion tokens, for which a hundredth of DCLM's 27,840 shards is enough;
    --corpus.path names another copy, on S3 or in a folder."""
    return Config(
        recipe="paper_1b",
        world=None,
        corpus=CorpusConfig(
            path=DCLM,
            validation_path="",
            fraction=0.01,
            max_quarantined_share=0.01,
            tokenizer="meta-llama/Llama-2-7b-hf",
            block_size=2048,
        ),
        questions=QuestionsConfig(
            facts=FactsConfig(path="$MEMLM_DATA/qa/triviaqa.jsonl", layout="triviaqa"),
            held_out=(
                HeldOutConfig(name="nq_open", path="$MEMLM_DATA/qa/nq_open.jsonl", layout="nq_open"),
                HeldOutConfig(name="gsm8k", path="$MEMLM_DATA/qa/gsm8k_train.jsonl", layout="gsm8k", num_questions=500),
            ),
        ),
        model=ModelConfig(),
        pretraining=PretrainingConfig(
            num_steps=60_000,
            batch_blocks=256,
            micro_batch_blocks=8,
            learning_rate=3e-4,
            value_learning_rate=1e-3,
            warmup_steps=2000,
            precision="bf16",
            zero_stage=1,
            checkpoint_every=1000,
        ),
        counting=CountingConfig(num_batches=1000, batch_blocks=2),
        stream=StreamConfig(num_facts=1000, num_wordings=64, num_passes=10, max_length=64),
        method=SparseMemoryConfig(num_trainable_slots=500, optimizer=OptimizerConfig(kind="sgd", learning_rate=5.0)),
        evaluation=EvaluationConfig(max_new_tokens=16, batch_size=4, num_text_blocks=256),
        sweep=SweepConfig(scale="paper"),
    )


def paper_64m() -> Config:
    """The paper's model and streams with a pool of 64 M slots. Its 256 GiB of values are split by
    columns over 32 GPUs, which takes 24 GiB of each with the optimizer's moments. Counting and
    finetuning need the 256 GiB in each worker."""
    base = paper_1b()
    return replace(
        base,
        recipe="paper_64m",
        model=replace(base.model, memory=replace(base.model.memory, num_half_keys=8192)),
        pretraining=replace(base.pretraining, pool_split=32),
        cluster=ClusterConfig(num_workers=32, use_gpu=True, max_failures=1000),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (
        laptop,
        laptop_rule,
        laptop_checkpoints,
        laptop_controls,
        laptop_tuning,
        laptop_ablations,
        laptop_updates,
        laptop_layers,
        laptop_slots,
        smoke,
        wiki,
        wiki_rivals,
        wiki_triviaqa,
        wiki_tuning,
        wiki_documents,
        paper_1b,
        paper_64m,
    )
}
