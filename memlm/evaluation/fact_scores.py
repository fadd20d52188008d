"""How well does a model know each fact? Asked in wordings it never saw, and by the wordings it was trained on.

A trained wording can be asked where it ends in the answer: what stands before is the prompt, as in "Bern lies in | Peru".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm.data.facts import Fact
from memlm.evaluation.answers import exact_match
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.question_answering import complete, prompts_of

NOTHING_SAID = re.compile(r"[^\w]*")
"""What may follow the answer of a wording that ends in it."""


@dataclass(frozen=True, kw_only=True)
class Cloze:
    """A prompt, how it goes on, and what counts as right."""

    prompt: str
    continuation: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FactScore:
    """Means over a fact's questions, none of which is trained on, and over its trained wordings that end in the answer."""

    exact_match: float
    nats_per_token: float
    """Of the preferred answer after its question."""
    seen_exact_match: float | None = None
    seen_nats_per_token: float | None = None
    """None where no trained wording ends in the answer."""


def questions_as_clozes(fact: Fact) -> list[Cloze]:
    return [
        Cloze(prompt=prompt, continuation=f" {question.answers[0]}", answers=question.answers)
        for prompt, question in zip(prompts_of(fact.questions), fact.questions, strict=True)
    ]


def wordings_as_clozes(fact: Fact, wordings: Sequence[str]) -> list[Cloze]:
    """Those that end in an answer of the fact and say something before it."""
    answers = tuple(dict.fromkeys(answer for question in fact.questions for answer in question.answers))
    found = []
    for wording in wordings:
        places = [(wording.rfind(answer), answer) for answer in answers]
        ending = [(at, text) for at, text in places if at > 0 and NOTHING_SAID.fullmatch(wording, at + len(text))]
        prompt, text = min(((wording[:at].rstrip(), text) for at, text in ending), default=("", ""))
        if prompt:
            end = wording.rfind(text) + len(text)
            found.append(Cloze(prompt=prompt, continuation=wording[len(prompt) : end], answers=answers))
    return found


def score_facts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    config: EvaluationConfig,
    seen: Mapping[str, Sequence[str]] | None = None,
) -> list[FactScore]:
    """One score per fact, in their order. `seen` holds the wordings that each fact was trained on, by its id."""
    asked = [questions_as_clozes(fact) for fact in facts]
    trained = [wordings_as_clozes(fact, (seen or {}).get(fact.id, ())) for fact in facts]
    right, nats = _score([cloze for clozes in [*asked, *trained] for cloze in clozes], model, tokenizer, config)
    means: list[tuple[float | None, float | None]] = []
    for clozes in [*asked, *trained]:
        means.append((_take_mean(right, len(clozes)), _take_mean(nats, len(clozes))))
    scores = []
    for (unseen_right, unseen_nats), (seen_right, seen_nats) in zip(
        means[: len(facts)], means[len(facts) :], strict=True
    ):
        assert unseen_right is not None and unseen_nats is not None, "read_facts admits no fact without a question"
        scores.append(
            FactScore(
                exact_match=unseen_right,
                nats_per_token=unseen_nats,
                seen_exact_match=seen_right,
                seen_nats_per_token=seen_nats,
            )
        )
    return scores


def _take_mean(values: list[float], count: int) -> float | None:
    """Of the first so many, which are removed."""
    taken, values[:] = values[:count], values[count:]
    return sum(taken) / count if count else None


def _score(
    clozes: Sequence[Cloze], model: nn.Module, tokenizer: PreTrainedTokenizerBase, config: EvaluationConfig
) -> tuple[list[float], list[float]]:
    prompts = [cloze.prompt for cloze in clozes]
    written = complete(model, tokenizer, prompts, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
    right = [exact_match(text, cloze.answers) for text, cloze in zip(written, clozes, strict=True)]
    continuations = [cloze.continuation for cloze in clozes]
    return right, continuation_nats(model, tokenizer, prompts, continuations, batch_size=config.batch_size)


@torch.no_grad()
def continuation_nats(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    continuations: Sequence[str],
    *,
    batch_size: int,
) -> list[float]:
    """Nats per token of each continuation after its prompt. Both are tokenised as one text, as the model was trained on it."""
    if not prompts:
        return []
    rows = tokens_of(tokenizer, prompts, continuations)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][1]))
    device = next(model.parameters()).device
    nats = [0.0] * len(rows)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        tokens, targets = _padded([rows[place] for place in places], pad_id=tokenizer.pad_token_id)
        logits = model(input_ids=tokens.to(device), use_cache=False).logits[:, :-1].float()
        lost = F.cross_entropy(
            logits.transpose(1, 2), targets[:, 1:].to(device), ignore_index=-100, reduction="none"
        ).sum(dim=1)
        means = lost.cpu() / (targets[:, 1:] != -100).sum(dim=1)
        for place, mean in zip(places, means.tolist(), strict=True):
            nats[place] = mean
    return nats


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str]
) -> list[tuple[int, list[int]]]:
    """Of each pair, how many tokens are the prompt's, and the tokens of both. A token that spans the seam is predicted."""
    wholes = [prompt + continuation for prompt, continuation in zip(prompts, continuations, strict=True)]
    alone = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    together = tokenizer(wholes, add_special_tokens=False)["input_ids"]
    rows = []
    for text, prompt, whole in zip(wholes, alone, together, strict=True):
        differs = (place for place, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1])
        shared = next(differs, min(len(prompt), len(whole)))
        if not 0 < shared < len(whole):
            raise ValueError(
                f"the text {text!r} has no token to predict an answer in, or none before it; give both prompt and answer a text"
            )
        rows.append((shared, whole))
    return rows


def _padded(
    rows: Sequence[tuple[int, list[int]]], *, pad_id: int
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Tokens, and the targets: -100 on prompts and pads, which stand to the right and are seen by nobody."""
    longest = max(len(whole) for _, whole in rows)
    tokens, targets = torch.full((len(rows), longest), pad_id), torch.full((len(rows), longest), -100)
    for place, (shared, whole) in enumerate(rows):
        tokens[place, : len(whole)] = torch.tensor(whole)
        targets[place, shared : len(whole)] = torch.tensor(whole[shared:])
    return tokens, targets
