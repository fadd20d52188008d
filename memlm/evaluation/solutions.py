"""Scores of worked solutions, as in GSM8K: the likelihood of the set's solution, and the final
number of the model's own solution.

The likelihood is the primary measure, because it moves long before a model of any size gets a
number wrong that it got right.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from memlm.data.questions.final_numbers import final_number
from memlm.data.questions.records import Question, QuestionError
from memlm.evaluation.continuations import Continuation, continuation_nats
from memlm.evaluation.question_answering import NEXT_QUESTION, complete, prompts_of
from memlm.model.reader import Reader


@dataclass(frozen=True, kw_only=True)
class SolutionScores:
    """One entry per problem, in the order asked."""

    nats_per_token: tuple[float, ...]
    unigram_nats_per_token: tuple[float, ...]
    """The score of a unigram model; 0 where none was given."""
    final_number: tuple[float, ...]
    """1 where the number after #### equals the set's; empty if the model was not asked to write."""


def score_solutions(
    reader: Reader,
    problems: Sequence[Question],
    *,
    examples: Sequence[Question] = (),
    max_new_tokens: int,
    batch_size: int,
    unigram_nats: Float[Tensor, " vocab"] | None = None,
) -> SolutionScores:
    """Score each solution by its likelihood and, unless max_new_tokens is 0, the final number of
    the model's own solution, which takes most of the time."""
    prompts = prompts_of(problems, [_require_solution(example) for example in examples])
    continuations = solution_continuations(problems, examples)
    nats = continuation_nats(reader, continuations, batch_size=batch_size, unigram_nats=unigram_nats)
    written = (
        complete(reader, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, until=NEXT_QUESTION)
        if max_new_tokens
        else []
    )
    return SolutionScores(
        nats_per_token=tuple(each.nats_per_token for each in nats),
        unigram_nats_per_token=tuple(each.unigram_nats_per_token for each in nats),
        final_number=tuple(
            float(final_number(text) == problem.answers[0]) for text, problem in zip(written, problems, strict=False)
        ),
    )


def solution_continuations(problems: Sequence[Question], examples: Sequence[Question] = ()) -> list[Continuation]:
    prompts = prompts_of(problems, [_require_solution(example) for example in examples])
    solutions = [_require_solution(problem).solution for problem in problems]
    return [Continuation(prompt, f" {solution}") for prompt, solution in zip(prompts, solutions, strict=True)]


def _require_solution(problem: Question) -> Question:
    if not problem.solution:
        raise QuestionError(
            f"{problem.id}: has no worked solution, which the task gsm8k scores. Use the layout gsm8k, or name fields.solution."
        )
    return problem
