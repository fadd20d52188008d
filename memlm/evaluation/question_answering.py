"""Does the model answer right? Greedy answers, scored by exact match and F1 with the official normalisation.

Prompts of one length are answered together, so no prompt is ever padded and an answer does not depend on its neighbours' lengths.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from memlm.data.questions import Question
from memlm.evaluation.answers import exact_match, f1

PROMPT = "Question: {question}\nAnswer:"
"""The form of lm-evaluation-harness's TriviaQA task, at no examples."""


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """One entry per question, in the order asked."""

    answers: tuple[str, ...]
    exact_match: tuple[float, ...]
    f1: tuple[float, ...]


def answer_questions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> AnswerScores:
    """Ask every question once. An answer ends at the end of its line or of the text."""
    prompts = [PROMPT.format(question=question.question) for question in questions]
    answers = complete(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    pairs = list(zip(answers, questions, strict=True))
    return AnswerScores(
        answers=tuple(answers),
        exact_match=tuple(exact_match(answer, question.answers) for answer, question in pairs),
        f1=tuple(f1(answer, question.answers) for answer, question in pairs),
    )


@torch.no_grad()
def complete(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The greedy continuation of each prompt up to the end of its line."""
    rows = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_length[len(row)].append(index)
    ends = sorted({tokenizer.eos_token_id, *tokenizer("\n", add_special_tokens=False)["input_ids"][-1:]})
    device = next(model.parameters()).device
    answers = [""] * len(rows)
    for _, indices in sorted(by_length.items()):
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            prompt = torch.tensor([rows[index] for index in chosen], device=device)
            generated = model.generate(  # type: ignore[operator]
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
            )
            continuations = tokenizer.batch_decode(generated[:, prompt.shape[1] :], skip_special_tokens=True)
            for index, text in zip(chosen, continuations, strict=True):
                answers[index] = text.split("\n", 1)[0].strip()
    return answers
