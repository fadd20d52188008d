"""Inputs of every trial and evaluation of a run: base model, questions and background counts."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.corpus.corpus import Corpus, open_corpus
from memlm.data.encoding import padding_id
from memlm.data.questions.sets import open_question_sets
from memlm.evaluation.suite import HeldOut
from memlm.evaluation.vocabulary import vocabulary_of
from memlm.kinds import CHECKPOINT_KIND, COUNTS_FILE, READS_FILE
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.model.language_model import attention_on, compute_buffers, load_checkpoint, load_model_config
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.training.counting import counted_blocks
from memlm.training.materials import Materials

CPU = torch.device("cpu")


def load_materials(config: Config, inputs: Mapping[str, str]) -> Materials:
    """Load the inputs. `inputs` are the digests, as the driver found them, of corpus and questions
    and, for methods that need them, of counts and reads. Raises StorageError if one was replaced
    since."""
    corpus = open_corpus(artifacts.corpus(config).uri, digest=inputs["corpus"])
    sets = open_question_sets(artifacts.questions(config).uri, digest=inputs["questions"])
    validation, background = corpus.validation_blocks(), _background_text(corpus, config)
    counts = None
    if "counts" in inputs:
        counts = artifacts.counts(config).open(digest=inputs["counts"]) / COUNTS_FILE
    reads = None
    if "reads" in inputs:
        reads = artifacts.reads(config).open(digest=inputs["reads"]) / READS_FILE
    return Materials(
        tokenizer=corpus.tokenizer,
        facts=sets.facts(),
        held_out=HeldOut(
            questions=sets.held_out(),
            tasks=sets.tasks(),
            text=validation.take(range(min(config.evaluation.num_text_blocks, len(validation)))),
            vocabulary=vocabulary_of(corpus.tokenizer, background.blocks),
            examples=sets.examples(),
        ),
        background=BackgroundCounts.load(counts) if counts else None,
        reads=BackgroundReads.load(reads) if reads else None,
        updates=sets.updates(),
        text=background,
    )


def _background_text(corpus: Corpus, config: Config) -> BackgroundText:
    """All text that the background counts are of, so that every method may use the same."""
    blocks, tokenizer = counted_blocks(corpus.train_blocks(), config.counting), corpus.tokenizer
    return BackgroundText(blocks=blocks, eos_id=tokenizer.eos_token_id, pad_id=padding_id(tokenizer))


def load_model(checkpoint: str, device: torch.device = CPU, *, digest: str | None = None) -> nn.Module:
    """Model of the checkpoint. Raises StorageError if it is missing or has another digest."""
    folder = storage.open_artifact(checkpoint, kind=CHECKPOINT_KIND, digest=digest)
    return load_checkpoint(folder, device)


def read_model_config(checkpoint: str, *, digest: str | None = None) -> PreTrainedConfig:
    folder = storage.open_artifact(checkpoint, kind=CHECKPOINT_KIND, digest=digest)
    return load_model_config(folder)


def model_of_weights(config: PreTrainedConfig, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Model that uses these tensors, all on one device, without a copy; reads no file."""
    device = next(iter(weights.values())).device
    with torch.device("meta"):
        attention = attention_on(device)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, trust_remote_code=False)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    compute_buffers(model, device)
    return model.eval()
