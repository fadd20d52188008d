"""Background counts and reads of other texts than the run's, for controls and ablations of what
slots are ranked against. A trial makes them itself, in micro-batches of the run's shape.

Shape and number matter: the more tokens a micro-batch holds, the more slots it reads, and the more
common all of them look; the fewer micro-batches, the fewer values has a document frequency.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm.data.corpus.packing import is_text, pack
from memlm.data.encoding import encode_all
from memlm.data.mentions import Phrases
from memlm.data.questions.records import Fact, Question, Record
from memlm.evaluation.question_answering import prompts_of
from memlm.evaluation.suite import HeldOut
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.slots.counts import BackgroundCounts
from memlm.slots.reads import BackgroundReads
from memlm.training.counting import count_batches, read_batches

KNOWN_FACTS = "known_facts"
"""The held-out set whose entities are the tested ones."""


def count_background(
    source: str,
    model: nn.Module,
    facts: Sequence[Fact],
    held_out: HeldOut,
    tokenizer: PreTrainedTokenizerBase,
    *,
    text: BackgroundText | None,
    background: BackgroundCounts | None,
) -> BackgroundCounts:
    """Counts of the text that `method.background` names, other than the corpus. Texts of facts and
    questions are packed like documents, each with an end of text, and repeated in other orders
    until there are as many blocks as the run counted."""
    text, background = _required(source, text, background)
    if source == "corpus_without_tested":
        blocks, counted = _without_tested(held_out, tokenizer, text)
    else:
        texts = _statements(facts) if source == "new_facts" else _prompts(held_out)
        blocks = _repeated(texts, tokenizer, text, num_blocks=background.num_sequences)
        counted = is_text(blocks, eos_id=text.eos_id, pad_id=text.pad_id)
    return count_batches(model, _micro_batches(model, blocks, counted, background, text), eos_id=text.eos_id)


def read_background(
    source: str,
    model: nn.Module,
    held_out: HeldOut,
    tokenizer: PreTrainedTokenizerBase,
    *,
    text: BackgroundText | None,
    background: BackgroundCounts | None,
    reads: BackgroundReads,
) -> BackgroundReads:
    """Reads of the corpus without the documents that name tested entities: of as many tokens as
    `reads`, or as many as are left."""
    text, background = _required(source, text, background)

    def read() -> BackgroundReads:
        blocks, counted = _without_tested(held_out, tokenizer, text)
        batches = _micro_batches(model, blocks, counted, background, text)
        measured = reads.sensitivities is not None
        return read_batches(model, batches, num_tokens=reads.num_tokens, eos_id=text.eos_id, sensitivities=measured)

    return reads.of_other_text(source, read)


def _required(
    source: str, text: BackgroundText | None, background: BackgroundCounts | None
) -> tuple[BackgroundText, BackgroundCounts]:
    if background is None or text is None:
        raise ValueError(
            f"method.background is {source}, which is counted in micro-batches like the run's, and there are no background counts of a text; "
            "run pipelines/count_accesses.py"
        )
    return text, background


def _without_tested(
    held_out: HeldOut, tokenizer: PreTrainedTokenizerBase, text: BackgroundText
) -> tuple[Int[Tensor, "blocks seq"], Bool[Tensor, "blocks seq"]]:
    counted = is_text(text.blocks, eos_id=text.eos_id, pad_id=text.pad_id)
    counted &= ~naming_documents(text.blocks, tested_entities(held_out), tokenizer, eos_id=text.eos_id)
    return text.blocks, counted


def tested_entities(held_out: HeldOut) -> Phrases:
    """The names in the questions about known facts. Raises ValueError if there are none."""
    records = held_out.questions.get(KNOWN_FACTS, ())
    names = {name_in(record.question) for record in records if isinstance(record, Question)} - {""}
    if not names:
        raise ValueError(
            f"method.background is corpus_without_tested, and no question of a held-out set {KNOWN_FACTS!r} holds a name; "
            f"call the set of known facts {KNOWN_FACTS!r}, or rank against the corpus"
        )
    return Phrases(names)


def name_in(question: str) -> str:
    """The longest run of words with capitals, without the first word unless it is the only one;
    empty if there is none."""
    runs = [match.group() for match in re.finditer(r"\b[A-Z][\w'’.-]*(?: [A-Z][\w'’.-]*)*", question)]
    inner = [run.partition(" ")[2] if question.startswith(run) else run for run in runs]
    return max([run.strip(" .") for run in inner if run] or runs, key=len, default="")


def naming_documents(
    blocks: Int[Tensor, "blocks seq"], names: Phrases, tokenizer: PreTrainedTokenizerBase, *, eos_id: int
) -> Bool[Tensor, "blocks seq"]:
    """True on every token of a document that holds one of the names. A document that the edge of a
    block cuts is judged by each of its parts alone."""
    naming = torch.zeros_like(blocks, dtype=torch.bool)
    for block, named in zip(blocks, naming, strict=True):
        ends = [*(place + 1 for place in (block == eos_id).nonzero().flatten().tolist()), len(block)]
        for start, end in zip([0, *ends], ends, strict=False):
            if start < end and names.in_text(tokenizer.decode(block[start:end], skip_special_tokens=True)):
                named[start:end] = True
    return naming


def _statements(facts: Sequence[Fact]) -> list[str]:
    return [statement for fact in facts for statement in fact.statements]


def _prompts(held_out: HeldOut) -> list[str]:
    records: list[Record] = [record for each in held_out.questions.values() for record in each]
    return [prompts_of([each])[0] if isinstance(each, Question) else each.query for each in records]


def _repeated(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, text: BackgroundText, *, num_blocks: int
) -> Int[Tensor, "blocks seq"]:
    """All texts, each time in another order, packed into this many blocks. Raises ValueError if
    there are none."""
    if not texts:
        raise ValueError("method.background names texts of which this run has none; rank against the corpus")
    documents, rng = encode_all(tokenizer, texts), np.random.default_rng(0)
    in_orders = (documents[place] for _ in itertools.count() for place in rng.permutation(len(documents)))
    packed = pack(in_orders, block_size=text.blocks.shape[1], eos_id=text.eos_id, pad_id=text.pad_id)
    return torch.stack([torch.from_numpy(block).long() for block in itertools.islice(packed, num_blocks)])


def _micro_batches(
    model: nn.Module,
    blocks: Int[Tensor, "blocks seq"],
    counted: Bool[Tensor, "blocks seq"],
    background: BackgroundCounts,
    text: BackgroundText,
) -> Iterator[tuple[Int[Tensor, "rows seq"], Bool[Tensor, "rows seq"]]]:
    """In the shape of the run's, on the model's device; the last is filled up with pads."""
    rows, device = -(-background.num_sequences // max(1, background.num_batches)), next(model.parameters()).device
    for start in range(0, len(blocks), rows):
        tokens = torch.full((rows, blocks.shape[1]), text.pad_id)
        is_token = torch.zeros_like(tokens, dtype=torch.bool)
        size = len(blocks[start : start + rows])
        tokens[:size], is_token[:size] = blocks[start : start + rows], counted[start : start + rows]
        yield tokens.to(device), is_token.to(device)
