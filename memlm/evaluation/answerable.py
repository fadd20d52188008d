"""Questions that no answer can be right for, as they are asked and scored, with the reason for
each."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from memlm.data.encoding import decode_all, encode_all
from memlm.data.questions.final_numbers import final_number
from memlm.data.questions.records import MultipleChoice, Question, Record
from memlm.evaluation.answers import Normalize, comparable
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.question_answering import END_OF_LINE

SHOWN = 20
"""Number of questions that a message names."""


def flaws_of_answers(
    tokenizer: PreTrainedTokenizerBase, config: EvaluationConfig, asked: Sequence[Question], *, normalize: Normalize
) -> list[str]:
    """One entry a question, empty where an answer fits: on one line, and within max_new_tokens
    as written or normalised."""
    flaws = []
    for question in asked:
        lines = [answer for answer in map(str.strip, question.answers) if END_OF_LINE not in answer]
        if not lines:
            flaws.append("has a line break in each answer, and an answer ends at its line's end")
            continue
        forms = [f" {form}" for answer in lines for form in (answer, normalize(answer)) if form]
        rows = encode_all(tokenizer, forms)
        written = decode_all(tokenizer, rows)
        rewritten = zip(rows, forms, written, strict=True)
        lengths = [
            len(row) for row, form, text in rewritten if comparable(text, normalize) == comparable(form, normalize)
        ]
        if not lengths:
            flaws.append(
                f"has no answer that the tokenizer can write: {lines[0][:40]!r} becomes {written[0].strip()[:40]!r}"
            )
            continue
        shortest = min(lengths)
        too_long = f"needs {shortest} tokens, and evaluation.max_new_tokens is {config.max_new_tokens}"
        flaws.append(too_long if shortest > config.max_new_tokens else "")
    return flaws


def flaws_of_solutions(
    tokenizer: PreTrainedTokenizerBase, config: EvaluationConfig, asked: Sequence[Question]
) -> list[str]:
    """One entry a problem, empty where its solution ends in the number that counts, and where no
    solutions are written."""
    if not config.max_solution_tokens:
        return [""] * len(asked)
    ends = [(problem.answers[0], final_number(problem.solution)) for problem in asked]
    return [
        "" if end == wanted else f"ends in {end!r} after ####, and {wanted!r} counts as right" for wanted, end in ends
    ]


def flaws_of_choices(
    tokenizer: PreTrainedTokenizerBase, config: EvaluationConfig, asked: Sequence[MultipleChoice]
) -> list[str]:
    """One entry a record, empty where the right choice can be the likeliest: of equal ones the
    first counts."""
    return [
        "has the right choice a second time, before it" if each.choices[each.gold] in each.choices[: each.gold] else ""
        for each in asked
    ]


def describe_flaws(name: str, asked: Sequence[Record], flaws: Sequence[str]) -> str:
    """One message that counts the questions that cannot be answered right, and names the first;
    empty if there is none."""
    named = [f"{record.id!r} {flaw}" for record, flaw in zip(asked, flaws, strict=True) if flaw]
    if not named:
        return ""
    more = f"; and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return (
        f"{name}: {len(named)} of {len(asked)} questions can never be answered right: {'; '.join(named[:SHOWN])}{more}. "
        "Correct their answers, leave them out, or raise the limit."
    )
