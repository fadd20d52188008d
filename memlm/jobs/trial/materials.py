"""What every trial and every evaluation of a run reads: the base model, the corpus's questions,
the background counts."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.corpus.blocks import batch_ids
from memlm.data.corpus.corpus import Corpus, open_corpus
from memlm.data.encoding import padding_id
from memlm.data.questions.sets import open_question_sets
from memlm.evaluation.suite import HeldOut
from memlm.kinds import CHECKPOINT_KIND, COUNTS_FILE
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.model.language_model import attention_on, load_checkpoint, load_model_config
from memlm.slots.counts import BackgroundCounts
from memlm.training.finetune import Materials

CPU = torch.device("cpu")
REHEARSED_BLOCKS = 1024
"""Drawn from by replay and distillation; small beside a corpus, so the sample is held in memory."""


def load_materials(config: Config, inputs: Mapping[str, str]) -> Materials:
    """`inputs` are the digests of corpus and questions, and of the counts for methods that need
    them: as the driver found them, which may be replaced before a worker opens them. Raises
    StorageError if one was."""
    corpus = open_corpus(artifacts.corpus(config).uri, digest=inputs["corpus"])
    sets = open_question_sets(artifacts.questions(config).uri, digest=inputs["questions"])
    text = corpus.validation_blocks()
    counts = None
    if "counts" in inputs:
        counts = artifacts.counts(config).open(digest=inputs["counts"]) / COUNTS_FILE
    return Materials(
        tokenizer=corpus.tokenizer,
        facts=sets.facts(),
        held_out=HeldOut(
            questions=sets.held_out(),
            tasks=sets.tasks(),
            text=text.take(range(min(config.evaluation.num_text_blocks, len(text)))),
        ),
        background=BackgroundCounts.load(counts) if counts else None,
        text=_background_text(corpus),
    )


def _background_text(corpus: Corpus) -> BackgroundText:
    """A sample of the training blocks, for methods that rehearse them."""
    blocks, tokenizer = corpus.train_blocks(), corpus.tokenizer
    sample = batch_ids(seed=0, step=0, batch_size=min(REHEARSED_BLOCKS, len(blocks)), num_blocks=len(blocks))
    return BackgroundText(blocks=blocks.take(sample), eos_id=tokenizer.eos_token_id, pad_id=padding_id(tokenizer))


def device_of(config: Config) -> torch.device:
    return torch.device("cuda" if config.cluster.use_gpu else "cpu")


def load_model(checkpoint: str, device: torch.device = CPU, *, digest: str | None = None) -> nn.Module:
    """With a digest, that very checkpoint. Raises StorageError if it is not there."""
    folder = storage.open_artifact(checkpoint, kind=CHECKPOINT_KIND, digest=digest)
    return load_checkpoint(folder, device)


def read_model_config(checkpoint: str, *, digest: str | None = None) -> PreTrainedConfig:
    folder = storage.open_artifact(checkpoint, kind=CHECKPOINT_KIND, digest=digest)
    return load_model_config(folder)


def model_of_weights(config: PreTrainedConfig, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model over these very tensors, which are all on one device; reads no file and copies
    nothing."""
    device = next(iter(weights.values())).device
    with torch.device("meta"):
        attention = attention_on(device)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, trust_remote_code=False)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    # The rotary frequencies are no weights but are computed from the configuration, which the
    # meta device cannot do.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model.eval()
