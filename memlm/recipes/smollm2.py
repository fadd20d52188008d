"""Recipes on SmolLM2-135M-Instruct, a model that somebody else trained, for two CPU cores."""

import os
from dataclasses import replace

from memlm.config import Config, SweepConfig
from memlm.data.config import (
    DocumentsConfig,
    DocumentStreamConfig,
    FactsConfig,
    HeldOutConfig,
    KnownConfig,
    QuestionsConfig,
    QuestionSetConfig,
    StreamConfig,
)
from memlm.data.corpus.config import CorpusConfig, SamplesConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.methods.config import OptimizerConfig
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig
from memlm.model.bases.packages import SMOLLM2
from memlm.model.config import MemoryConfig, ModelConfig
from memlm.training.config import CountingConfig, PretrainingConfig

ENTITY_QUESTIONS = QuestionSetConfig(path="{shipped}/entityquestions.jsonl.zst", layout="entityquestions")
EXAMPLES = replace(ENTITY_QUESTIONS, path="{shipped}/entityquestions_examples.jsonl")
NUM_ASKED = 5000
"""Questions that facts and held-out questions are chosen from; the others of the file serve as
background text."""
SMOLLM2_MODEL = ModelConfig(
    base=SMOLLM2,
    num_layers=30,
    hidden_size=576,
    num_attention_heads=9,
    intermediate_size=1536,
    max_positions=8192,
    rope_theta=100_000.0,
    tie_embeddings=True,
    num_probes=0,  # the sweep itself measures what can be taught
    memory=MemoryConfig(
        layers=(7,),
        num_half_keys=256,
        top_k=16,
        num_heads=4,
        key_dim=128,
        value_dim=576,
        query_norm=True,
        placement="parallel",
    ),
)
"""Its memory has 65,536 slots at layer 7, where facts were recalled best in unseen wordings."""
SEEDS_OF_PASSAGES = (0, 1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 19)
"""Seeds that draw different passages of SEAL's, so that none is learned alone twice."""
SKILLS = (
    HeldOutConfig(name="gsm8k", path="{shipped}/gsm8k.jsonl.zst", layout="gsm8k", num_questions=24),
    HeldOutConfig(name="hellaswag", path="{shipped}/hellaswag.jsonl.zst", layout="hellaswag", num_questions=30),
)


def smollm2() -> Config:
    """SmolLM2-135M-Instruct with a memory added: facts that it does not know, against those that it
    does. `make smollm2` installs what it needs and runs it, in an hour and a half on two CPU
    cores."""
    return Config(
        recipe="smollm2",
        world=None,
        corpus=_text(),
        questions=QuestionsConfig(
            facts=FactsConfig(
                path=ENTITY_QUESTIONS.path,
                layout=ENTITY_QUESTIONS.layout,
                base_answers="wrong",
                num_questions=1000,
                also_asked=True,
            ),
            held_out=(_known("known_facts", 300), replace(_known("chat", 48), task="chat"), *SKILLS),
            examples=EXAMPLES,
            known=KnownConfig(num_asked=NUM_ASKED),
        ),
        model=SMOLLM2_MODEL,
        pretraining=PretrainingConfig(num_steps=0),
        counting=CountingConfig(
            num_batches=250, batch_blocks=4, batches_per_unit=25, read_tokens=49_152, sensitivities=False
        ),
        evaluation=EvaluationConfig(max_solution_tokens=0, batch_size=64, num_text_blocks=40),
        stream=StreamConfig(num_facts=50, num_wordings=4, num_passes=8, part="evaluation"),
        sweep=SweepConfig(
            scale="smollm2", methods=("sparse_memory", "sparse_memory_decorrelated_2000", "full", "lora")
        ),
    )


def smollm2_tuning() -> Config:
    """What the settings of `smollm2` are chosen on: three settings of each method on facts that it
    does not learn, on its checkpoints."""
    base = smollm2()
    return replace(
        base,
        recipe="smollm2_tuning",
        base_run="smollm2",
        stream=replace(base.stream, part="tuning"),
        sweep=replace(base.sweep, scale="smollm2_tuning", seeds=(10,)),
    )


def smollm2_triviaqa() -> Config:
    """The paper's streams on SmolLM2-135M-Instruct: TriviaQA's facts that it does not know, against
    the NaturalQuestions that it answers (Lin et al. 2025, section 5.1), on the checkpoints of
    `smollm2`. The environment variable MEMLM_DATA names their folder."""
    base = smollm2()
    nq_open = HeldOutConfig(
        name="nq_open",
        path="$MEMLM_DATA/qa/nq_open.jsonl",
        layout="nq_open",
        task="questions",  # behind the same examples as all sets
        base_answers="right",
        num_questions=300,
    )
    return replace(
        base,
        recipe="smollm2_triviaqa",
        base_run="smollm2",
        questions=replace(
            base.questions,
            facts=FactsConfig(
                path="$MEMLM_DATA/qa/triviaqa.jsonl",
                layout="triviaqa",
                shuffle=True,
                base_answers="wrong",
                num_questions=1000,
                also_asked=True,
            ),
            held_out=(nq_open, *SKILLS),
            known=KnownConfig(num_asked=2600),
        ),
        sweep=replace(base.sweep, compare_with=("smollm2",)),
    )


def smollm2_seal() -> Config:
    """SEAL's passages and their rewrites on SmolLM2-135M-Instruct (Zweiger et al. 2025,
    arXiv 2506.10943): eight passages one after another, each asked about right after it and after
    the eighth, on the checkpoints of `smollm2`. The environment variable MEMLM_DATA names their
    folder."""
    base = smollm2()
    passages = "$MEMLM_DATA/qa/seal_passages.jsonl.zst"
    return replace(
        base,
        recipe="smollm2_seal",
        base_run="smollm2",
        questions=replace(
            base.questions,
            facts=replace(base.questions.facts, base_answers="any", also_asked=False),
            held_out=(_known("known_facts", 100),),
            documents=DocumentsConfig(
                path=passages,
                questions=passages,
                answered_only=False,
                chunk_tokens=512,  # a passage is one chunk
                min_chunk_tokens=512,
                augmenter="given",
                num_augmentations=128,
                max_augmentation_tokens=111,
            ),
        ),
        evaluation=replace(base.evaluation, max_new_tokens=24, num_text_blocks=10),
        stream=_passages(8),
        sweep=replace(base.sweep, seeds=(0, 1, 2, 3)),
    )


def smollm2_seal_alone() -> Config:
    """The passages of `smollm2_seal` one at a time: each seed learns one, from the start."""
    sequences = smollm2_seal()
    return replace(
        sequences,
        recipe="smollm2_seal_alone",
        stream=_passages(1),
        sweep=replace(sequences.sweep, seeds=SEEDS_OF_PASSAGES),
    )


def _passages(number: int) -> DocumentStreamConfig:
    """A passage is learned in 48 steps, which go through its texts five times."""
    return DocumentStreamConfig(
        num_documents=number,
        part="evaluation",
        num_augmentations=8,
        num_passes=48,
        order="one_by_one",
        max_length=112,
    )


def smollm2_company() -> Config:
    """Thirty facts of a made-up company, or a table of your own, learned by SmolLM2-135M-Instruct
    on the checkpoints of `smollm2` (docs/your-own-facts.md)."""
    base = _own()
    return replace(
        base,
        recipe="smollm2_company",
        questions=replace(
            base.questions,
            facts=FactsConfig(path="docs/examples/company.csv", layout="fields", also_asked=True, rephrased=True),
        ),
        stream=StreamConfig(num_facts=1000, num_wordings=6, num_passes=16),
    )


def smollm2_handbook() -> Config:
    """Two pages of a made-up handbook, or documents of your own, learned by SmolLM2-135M-Instruct
    on the checkpoints of `smollm2` (docs/your-own-facts.md)."""
    base = _own()
    return replace(
        base,
        recipe="smollm2_handbook",
        questions=replace(
            base.questions,
            documents=DocumentsConfig(
                path="docs/examples/handbook.md",
                questions="docs/examples/handbook_questions.jsonl",
                augmenter="sentences",
                chunk_tokens=64,
                min_chunk_tokens=16,
                max_augmentation_tokens=127,
            ),
        ),
        stream=DocumentStreamConfig(num_augmentations=8, num_passes=16, max_length=128),
    )


def _own() -> Config:
    """What learning something of one's own has in common: our rule, and known facts that are asked
    before and after."""
    base = smollm2()
    return replace(
        base,
        base_run="smollm2",
        questions=replace(
            base.questions, facts=FactsConfig(path=ENTITY_QUESTIONS.path), held_out=(_known("known_facts", 300),)
        ),
        method=SparseMemoryDecorrelatedConfig(
            num_trainable_slots=2000, optimizer=OptimizerConfig(kind="sgd", learning_rate=40_000.0)
        ),
        evaluation=replace(base.evaluation, max_new_tokens=16),
    )


def _text() -> CorpusConfig:
    """Wikipedia, where MEMLM_DATA names it; else what the base writes by itself: free text, and its
    answers to questions that no set asks."""
    text = CorpusConfig(
        path="$MEMLM_DATA/text/wiki2015-lead4k",
        validation_path="$MEMLM_DATA/text/wiki2018new",
        max_shards=1,
        max_validation_shards=1,
        vocab_size=49_152,
    )
    if os.path.isdir(os.path.expandvars(text.path)):
        return text
    others = replace(ENTITY_QUESTIONS, skip=NUM_ASKED, num_questions=3000)
    return replace(
        text,
        path="{samples}/train",
        validation_path="{samples}/validation",
        samples=SamplesConfig(num_texts=320, questions=others),
    )


def _known(name: str, number: int) -> HeldOutConfig:
    """Questions that the base answers right."""
    return HeldOutConfig(
        name=name,
        path=ENTITY_QUESTIONS.path,
        layout=ENTITY_QUESTIONS.layout,
        base_answers="right",
        num_questions=number,
    )
