"""Mix known facts into the training text, as short documents: a statement, or a question with its
answer.

The model must see facts both stated and asked to learn that a statement answers a question; plain
text alone does not show the connection.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from memlm.data.config import MixtureConfig
from memlm.data.questions.records import Question
from memlm.data.stating.statements import with_answer, wordings_of


def mixture_documents(questions: Sequence[Question], config: MixtureConfig) -> Iterator[dict[str, object]]:
    """Records in DCLM's form: each fact `exposures` times, in random order, with its wordings in
    turn. Deterministic."""
    num_asked = round(config.exposures * config.question_share)
    order = np.argsort(np.random.Philox(key=[1, 0]).random_raw(len(questions) * config.exposures), kind="stable")
    texts = [_texts(question, index < config.num_reserved) for index, question in enumerate(questions)]
    for number in order:
        exposure, index = divmod(int(number), len(questions))
        stated, asked = texts[index]
        # A reserved question without another wording is only stated.
        text = asked[exposure % len(asked)] if exposure < num_asked and asked else stated[exposure % len(stated)]
        yield {"text": text, "url": f"mixture:{questions[index].id}"}


def _texts(question: Question, is_reserved: bool) -> tuple[list[str], list[str]]:
    """The statements, and the questions in the form of the evaluation's prompts."""
    wordings = wordings_of(question)
    own = () if is_reserved else (question.question,)
    asked = [with_answer(text, question.answers[0]) for text in (*own, *wordings.questions)]
    return list(wordings.statements), asked
