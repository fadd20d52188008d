"""The tokens of a statement that state the answer, for a loss on values alone.

Loss on the tokens of names and wordings moves the weights without a gain on the question: a fifth
of a statement's tokens are its value.
"""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from memlm.data.encoding import encode
from memlm.data.mentions import spans
from memlm.data.questions.records import Fact


def states_answer(tokenizer: PreTrainedTokenizerBase, text: str, answers: Sequence[str]) -> list[bool]:
    """For each token of the text, whether it belongs to an accepted answer. All are False if no
    answer can be predicted: none occurs as whole words, or only in the first token. Raises
    ValueError for a tokenizer that does not give its tokens' places."""
    if not tokenizer.is_fast:
        raise ValueError(
            "stream.loss_on is 'values', and the tokenizer does not give the places of its tokens; name a fast tokenizer (corpus.tokenizer), or "
            "leave --stream.loss-on out"
        )
    tokens = encode(tokenizer, text)
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    found = [span for answer in answers for span in spans(text, answer)]
    if encoded["input_ids"] != tokens:  # the text spells out a special token
        return [False] * len(tokens)
    marked = [any(first < end and start < last for first, last in found) for start, end in encoded["offset_mapping"]]
    return marked if any(marked[1:]) else [False] * len(tokens)


def answers_of(fact: Fact) -> tuple[str, ...]:
    """All accepted answers of the questions about a fact."""
    return tuple(dict.fromkeys(answer for question in fact.questions for answer in question.answers))


def silent_statements(tokenizer: PreTrainedTokenizerBase, facts: Iterable[Fact]) -> str:
    """A message if statements state no answer of their fact; empty otherwise."""
    number, silent, first = 0, 0, ""
    for fact in facts:
        for statement in fact.statements:
            number += 1
            if not any(states_answer(tokenizer, statement, answers_of(fact))):
                silent += 1
                first = first or statement
    if not silent:
        return ""
    return (
        f"stream.loss_on is 'values': {silent} of {number} statements hold no accepted answer, so all their tokens are learned; "
        f"the first: {first[:80]!r}"
    )
