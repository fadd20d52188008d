"""The tokens of a wording that are learned: those that state the answer, for a loss on values
alone, or those that answer a question.

Loss on the tokens of names and wordings moves the weights without a gain on the question: a fifth
of a statement's tokens are its value.
"""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from memlm.data.encoding import encode
from memlm.data.mentions import spans
from memlm.data.questions.records import ANSWER, QUESTION, Fact


def states_answer(tokenizer: PreTrainedTokenizerBase, text: str, answers: Sequence[str]) -> list[bool]:
    """For each token of the text, whether it belongs to an accepted answer. All are False if no
    answer can be predicted: none occurs as whole words, or only in the first token. Raises
    ValueError for a tokenizer that does not give its tokens' places."""
    places = _places(tokenizer, text, "values")
    found = [span for answer in answers for span in spans(text, answer)]
    marked = [any(first < end and start < last for first, last in found) for start, end in places]
    return marked if any(marked[1:]) else [False] * len(places)


def after_question(tokenizer: PreTrainedTokenizerBase, text: str) -> list[bool]:
    """For each token of the text, whether it belongs to the answer of a question with its answer;
    all are True in any other text. Raises ValueError as states_answer does."""
    places = _places(tokenizer, text, "answers")
    asked, mark, _ = text.partition(ANSWER)
    begins = len(asked) + len(mark) if mark and asked.startswith(QUESTION) else 0
    marked = [end > begins for _, end in places]
    return marked if any(marked) else [True] * len(places)


def _places(tokenizer: PreTrainedTokenizerBase, text: str, loss_on: str) -> list[tuple[int, int]]:
    """Start and end of each token; empty places in a text that spells out a special token."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"stream.loss_on is {loss_on!r}, and the tokenizer does not give the places of its tokens; name a fast tokenizer (corpus.tokenizer), or "
            "leave --stream.loss-on out"
        )
    tokens = encode(tokenizer, text)
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    if encoded["input_ids"] != tokens:
        return [(0, 0)] * len(tokens)
    return list(encoded["offset_mapping"])


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
