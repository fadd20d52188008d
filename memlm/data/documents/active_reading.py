"""Active Reading (Lin et al. 2025, arXiv 2508.09494): a language model studies a chunk in two
stages.

chunk --strategies.txt--> ways to study this chunk --apply_strategy.txt, for each of them--> N
augmentations
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from memlm.data.documents.chunking import Chunk
from memlm.data.mentions import plain
from memlm.data.prompts import prompt
from memlm.data.writers.interface import Request, Writer

STRATEGY_PROMPTS = {"general": "strategies", "trivia": "strategies_trivia"}
"""Prompts of stage one: one without a particular task, and one for a trivia quiz."""
APPLY_PROMPT = "apply_strategy"

_HEADING = re.compile(r"^[^\S\n]*##(?!#)\s*", re.MULTILINE)
_THOUGHT = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)
_START = "<start_strategies>"


def augment_by_reading(
    writer: Writer, chunks: Sequence[Chunk], *, prompt_name: str, num_augmentations: int, max_rounds: int
) -> list[list[str]]:
    """Up to num_augmentations different texts for each chunk; fewer, or none, if the model gave no
    more.

    Each strategy is applied once before any is applied again with another seed. Each round asks
    again about the chunks that lack strategies or texts.
    """
    readings = [_Reading(chunk) for chunk in chunks]
    for number in range(max_rounds):
        _ask_strategies(writer, [one for one in readings if not one.strategies], prompt_name, seed=number)
        short = [one for one in readings if one.strategies and len(one.texts) < num_augmentations]
        _apply(writer, short, num_augmentations)
    return [one.texts for one in readings]


def strategies_of(answer: str) -> list[str]:
    """The items prefixed with ##; only those after the start marker, if the answer has it."""
    _, _, after = _THOUGHT.sub("", answer).rpartition(_START)
    found = (item.strip() for item in _HEADING.split(after)[1:])
    return list(dict.fromkeys(item for item in found if item))


@dataclass
class _Reading:
    chunk: Chunk
    strategies: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    num_applied: int = 0


def _ask_strategies(writer: Writer, readings: Sequence[_Reading], name: str, *, seed: int) -> None:
    asked = [Request(prompt=prompt(name, document=one.chunk.titled), seed=seed) for one in readings]
    for one, answer in zip(readings, writer.write(asked) if asked else [], strict=True):
        one.strategies = strategies_of(answer)


def _apply(writer: Writer, readings: Sequence[_Reading], num_augmentations: int) -> None:
    asked, askers = [], []
    for one in readings:
        for _ in range(num_augmentations - len(one.texts)):
            seed, index = divmod(one.num_applied, len(one.strategies))
            text = prompt(APPLY_PROMPT, strategy=one.strategies[index], document=one.chunk.titled)
            asked.append(Request(prompt=text, seed=seed))
            askers.append(one)
            one.num_applied += 1
    for one, answer in zip(askers, writer.write(asked) if asked else [], strict=True):
        text = _THOUGHT.sub("", answer).strip()
        if text and plain(text) not in map(plain, one.texts):
            one.texts.append(text)
