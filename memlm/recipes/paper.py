"""Recipes at the paper's scale, for a GPU cluster."""

from dataclasses import replace

from memlm.config import ClusterConfig, Config, SweepConfig
from memlm.data.config import FactsConfig, HeldOutConfig, QuestionsConfig, StreamConfig
from memlm.data.corpus.config import CorpusConfig
from memlm.evaluation.config import EvaluationConfig
from memlm.methods.config import OptimizerConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.config import ModelConfig
from memlm.training.config import CountingConfig, PretrainingConfig

DCLM = "hf://datasets/mlfoundations/dclm-baseline-1.0@a3b142c183aebe5af344955ae20836eb34dcf69b"


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
