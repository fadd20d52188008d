"""Recipes on real text and facts, from the folder that MEMLM_DATA names."""

from dataclasses import replace

from memlm.config import Config, SweepConfig
from memlm.data.config import (
    DocumentsConfig,
    DocumentStreamConfig,
    FactsConfig,
    HeldOutConfig,
    MixtureConfig,
    QuestionsConfig,
    QuestionSetConfig,
    StreamConfig,
)
from memlm.data.corpus.config import CorpusConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.methods.config import OptimizerConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.recipes.laptop import LAPTOP_MODEL, OURS, REGULARIZED, RIVALS, WIDE
from memlm.training.config import CountingConfig, PretrainingConfig

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
        counting=CountingConfig(num_batches=1000, batch_blocks=16, read_tokens=524_288),
        evaluation=EvaluationConfig(max_new_tokens=16, max_solution_tokens=0),
        stream=StreamConfig(num_passes=16),
        sweep=SweepConfig(
            scale="wiki", methods=("sparse_memory", "lora", "full", "sparse_memory_protected"), tuning_seeds=(10,)
        ),
    )


def wiki_rivals() -> Config:
    """Replay, distillation and the rivals with a frozen model, on the stream and the checkpoints of
    `wiki`, whose trials are reused."""
    base = wiki()
    return replace(
        base,
        recipe="wiki_rivals",
        base_run="wiki",
        sweep=replace(
            base.sweep, methods=(*base.sweep.methods, *RIVALS, *REGULARIZED), compare_with=("wiki_triviaqa",)
        ),
    )


def wiki_rule() -> Config:
    """Rules of sparse memory against full finetuning and self-distillation, on the checkpoints of
    `wiki`."""
    base = wiki()
    return replace(
        base,
        recipe="wiki_rule",
        base_run="wiki",
        sweep=replace(
            base.sweep,
            scale="wiki_rule",
            methods=(
                "sparse_memory",
                "sparse_memory_decorrelated_2000",
                "sparse_memory_curvature_2000",
                "full",
                "full_distillation",
            ),
        ),
    )


def wiki_wide() -> Config:
    """Twelve settings for every method, on the checkpoints of `wiki`, in many hours on two CPU
    cores; --sweep.methods takes some of them."""
    base = wiki()
    return replace(
        base, recipe="wiki_wide", base_run="wiki", sweep=replace(base.sweep, scale="wiki_wide", methods=WIDE)
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
        sweep=replace(
            base.sweep,
            scale="documents",
            methods=("sparse_memory", "sparse_memory_decorrelated_2000", "lora", "full"),
        ),
    )
