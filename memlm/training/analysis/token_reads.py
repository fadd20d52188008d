"""The reads of every token of a fact's texts: how many are trainable, what the token is, and how
much it surprises the model before the fact is learned."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm.data import encoding
from memlm.data.questions.facts import Fact, FactBatch, fact_batch
from memlm.data.world.grammar import OTHER, PUNCTUATION, MarkedWord, mark_words
from memlm.evaluation.fact_scores import questions_as_clozes
from memlm.methods.config import SlotMethodConfig
from memlm.results.token_reads.statistics import END, ReadText, ReadToken
from memlm.slots.accesses import accesses_of
from memlm.slots.core_sets import reads_of_tokens
from memlm.slots.counts import BackgroundCounts
from memlm.training.analysis.slot_analysis import trainable_slots


def read_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    fact: Fact,
    method: SlotMethodConfig,
    background: BackgroundCounts,
    *,
    slot_counts: Sequence[int],
    max_length: int,
    seed: int = 0,
) -> list[ReadText]:
    """The statements of a fact of the generated world, and its questions with their answers. The
    trainable slots are those for a batch of all its statements."""
    device = next(model.parameters()).device
    statements = fact_batch(fact.id, fact.statements, tokenizer, max_length=max_length).to(device)
    chosen = [
        trainable_slots(model, statements, method, background, num_slots=count, seed=seed) for count in slot_counts
    ]
    asked = [cloze.prompt + cloze.continuation for cloze in questions_as_clozes(fact)]
    kinds = {"statement": fact.statements, "question": asked}
    texts = [(kind, text) for kind, group in kinds.items() for text in group]
    batch = fact_batch(fact.id, [text for _, text in texts], tokenizer, max_length=model.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
    batch = batch.to(device)
    slots, nats = accesses_of(model, input_ids=batch.tokens), _nats(model, batch)
    found = []
    for row, (kind, text) in enumerate(texts):
        length = int(batch.is_token[row].sum())
        reads = [reads_of_tokens(slots[row, :length], each) for each in chosen]
        surprise = [None, *nats[row, : length - 1].tolist()]
        marks = _marks(tokenizer, text, fact)
        tokens = tuple(
            ReadToken(
                text=tokenizer.decode([int(batch.tokens[row, at])]),
                part=part,
                part_of_speech=speech,
                place=place,
                num_read=reads[0][at].num_read,
                num_trainable=tuple(each[at].num_trainable for each in reads),
                nats=surprise[at],
            )
            for at, (part, speech, place) in enumerate(marks)
        )
        found.append(ReadText(fact=fact.id, kind=kind, tokens=tokens))
    return found


@torch.no_grad()
def _nats(model: nn.Module, batch: FactBatch) -> Float[Tensor, "texts seq-1"]:
    """Nats of each token but the first; those of pads mean nothing."""
    logits = model(input_ids=batch.tokens, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.transpose(1, 2), batch.tokens[:, 1:], reduction="none")


def _marks(tokenizer: PreTrainedTokenizerBase, text: str, fact: Fact) -> list[tuple[str, str, str]]:
    """Part, part of speech and place of each token, the eos included."""
    words = mark_words(text, entity=fact.id.rpartition("/")[0], value=fact.questions[0].answers[0])
    tokens = [_word_at(words, start) for start in _starts(tokenizer, text)]
    parts = [word.part if word else "stop" for word in tokens]
    marked: list[tuple[str, str, str]] = []
    for at, (word, part) in enumerate(zip(tokens, parts, strict=True)):
        place = _place(parts, at)
        marked.append((part, word.part_of_speech if word else PUNCTUATION, place))
    return [*marked, (END, OTHER, "")]


def _starts(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """For each token, the place of its first character that is no space; the place after a token of
    spaces."""
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    assert encoded["input_ids"] == encoding.encode(tokenizer, text), "texts of the world spell out no special token"
    starts = []
    for start, end in encoded["offset_mapping"]:
        token = text[start:end]
        starts.append(start + len(token) - len(token.lstrip(" ")))
    return starts


def _word_at(words: Sequence[MarkedWord], place: int) -> MarkedWord | None:
    return next((word for word in words if word.start <= place < word.end), None)


def _place(parts: Sequence[str], at: int) -> str:
    """The token's place in a name or value, or right before the value."""
    part = parts[at]
    after = parts[at + 1] if at + 1 < len(parts) else ""
    if part in ("entity", "value"):
        name = "name" if part == "entity" else "value"
        if after != part:
            return f"{name}, last"
        return f"{name}, first" if at == 0 or parts[at - 1] != part else f"{name}, inside"
    return "before the value" if after == "value" else ""
