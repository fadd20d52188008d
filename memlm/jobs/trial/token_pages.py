"""Page of coloured tokens for facts and their trainable slots."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm.data.questions.facts import Fact
from memlm.results.token_page import PageRow, PageSection, PageToken, write_token_page
from memlm.training.analysis.slot_analysis import TextReads, text_reads

NUM_WORDINGS = 4
"""Entry of the page: a fact, its trainable slots and a note."""


class PageFact(NamedTuple):
    fact: Fact
    trainable: Int[Tensor, " trainable"]
    note: str


def write_page(
    path: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[PageFact], *, lead: str
) -> None:
    sections = [
        PageSection(
            title=fact.id,
            note=note,
            rows=[
                _row(row)
                for row in text_reads(model, tokenizer, fact, trainable, wordings=fact.statements[:NUM_WORDINGS])
            ],
        )
        for fact, trainable, note in facts
    ]
    write_token_page(path, title="Trainable slots, token by token", lead=lead, sections=sections)


def _row(row: TextReads) -> PageRow:
    tokens = [
        PageToken(text=text, num_read=reads.num_read, num_trainable=reads.num_trainable)
        for text, reads in zip(row.tokens, row.reads, strict=True)
    ]
    return PageRow(label=row.label, tokens=tokens)
