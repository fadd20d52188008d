"""How do known facts get into the training text? As short documents, a statement or a question
with its answer each.

Stating and asking the same facts is what makes a fact that is later only stated answerable:
nothing in plain text shows a model that the two have to do with each other.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from memlm.data.config import MixtureConfig
from memlm.data.questions.records import Question
from memlm.data.stating.statements import wordings_of


def mixture_documents(questions: Sequence[Question], config: MixtureConfig) -> Iterator[dict[str, object]]:
    """Records in DCLM's form: every fact `exposures` times, in random order, its wordings in
    turn. The same for the same arguments."""
    num_asked = round(config.exposures * config.question_share)
    order = np.argsort(np.random.Philox(key=[1, 0]).random_raw(len(questions) * config.exposures), kind="stable")
    texts = [_texts(question, index < config.num_reserved) for index, question in enumerate(questions)]
    for number in order:
        exposure, index = divmod(int(number), len(questions))
        stated, asked = texts[index]
        # A reserved question that has no other wording is stated only.
        text = asked[exposure % len(asked)] if exposure < num_asked and asked else stated[exposure % len(stated)]
        yield {"text": text, "url": f"mixture:{questions[index].id}"}


def _texts(question: Question, is_reserved: bool) -> tuple[list[str], list[str]]:
    """The statements, and the questions in the form that an answer is asked for."""
    wordings = wordings_of(question)
    own = () if is_reserved else (question.question,)
    asked = [f"Question: {text}\nAnswer: {question.answers[0]}" for text in (*own, *wordings.questions)]
    return list(wordings.statements), asked
