"""Inputs of the trials of a run: facts and their stream, held-out sets, background counts, and the
recording of the base model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedTokenizerBase

from memlm.data.config import StreamChoice
from memlm.data.questions.facts import Fact, FactBatch, fact_batch
from memlm.data.questions.records import Update
from memlm.data.questions.streams import batches_of_stream, facts_of_stream, require_asked
from memlm.evaluation.suite import HeldOut
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.model.reader import Reader, Recording
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.training.backgrounds import count_background, read_background
from memlm.training.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Materials:
    """The inputs that all trials of a run share."""

    tokenizer: PreTrainedTokenizerBase
    facts: Sequence[Fact]
    held_out: HeldOut
    background: BackgroundCounts | None
    updates: Mapping[str, Update] = field(default_factory=dict)
    """By id of a fact, what it replaces; empty if the facts are new."""
    reads: BackgroundReads | None = None
    """What background text reads together, for methods that use it."""
    text: BackgroundText | None = None
    """The pretraining text that the background counts are of, for methods that rehearse it."""
    recording: Recording | None = None
    """Recording of the memory model's checkpoint, for methods that move values alone. It changes no
    result."""


def facts_of(trial: Trial, materials: Materials) -> list[Fact]:
    """The facts that the trial learns."""
    return facts_of_stream(trial.stream, materials.facts, seed=trial.seed)


def stream_of(trial: Trial, materials: Materials) -> Iterator[FactBatch]:
    """The batches that the trial learns, in their order."""
    return batches_of_stream(trial.stream, facts_of(trial, materials), materials.tokenizer, seed=trial.seed)


def statements_of(trial: Trial, facts: Sequence[Fact], materials: Materials) -> Callable[[str], FactBatch]:
    """All statements of one of the trial's facts, by its id, as one batch."""
    by_id = {fact.id: fact.statements for fact in facts}
    return lambda fact_id: fact_batch(fact_id, by_id[fact_id], materials.tokenizer, max_length=trial.stream.max_length)


def check_stream(stream: StreamChoice, facts: Sequence[Fact], tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
    """Raises FactError if a trial with this stream and seed could not begin: nothing that asks
    about what is learned, or a statement too long."""
    chosen = facts_of_stream(stream, facts, seed=seed)
    require_asked(chosen, seed=seed)
    batches_of_stream(stream, chosen, tokenizer, seed=seed)


def reader_for(trial: Trial, model: nn.Module, materials: Materials) -> Reader:
    """A reader of the model before or after the trial."""
    return Reader(model, materials.tokenizer, recording_for(trial, materials))


def recording_for(trial: Trial, materials: Materials) -> Recording | None:
    """The recording of the base model, which holds only if nothing but values moves."""
    return materials.recording if trial.method.moves == "values" else None


def background_for(
    trial: Trial, model: nn.Module, facts: Sequence[Fact], materials: Materials
) -> BackgroundCounts | None:
    """The counts that slots are ranked against: the run's, or for a control those of another
    text."""
    source = getattr(trial.method, "background", "corpus")
    if source == "corpus" or trial.method.uses_reads:
        return materials.background
    return count_background(
        source,
        model,
        facts,
        materials.held_out,
        materials.tokenizer,
        text=materials.text,
        background=materials.background,
    )


def reads_for(trial: Trial, model: nn.Module, materials: Materials) -> BackgroundReads | None:
    """The background reads that the method spares: the run's, or for a control those of another
    text."""
    source = getattr(trial.method, "background", "corpus")
    if source == "corpus" or not trial.method.uses_reads or materials.reads is None:
        return materials.reads
    return read_background(
        source,
        model,
        materials.held_out,
        materials.tokenizer,
        text=materials.text,
        background=materials.background,
        reads=materials.reads,
    )
