"""Is a generated answer right? Normalised exact match and F1, the measures of TriviaQA and NaturalQuestions scores.

Sources of the definitions: SQuAD's scorer (https://github.com/rajpurkar/SQuAD-explorer, evaluate-2.0.py) and TriviaQA's
(https://github.com/mandarjoshi90/triviaqa, evaluation/triviaqa_evaluation.py).
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from memlm.data.questions import Question

ARTICLES = re.compile(r"\b(?:an?|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and surplus white space: SQuAD's rule.

    TriviaQA's own scorer differs in two points: it puts a space where SQuAD deletes ("U.S." is "u s" there and "us"
    here; the underscore likewise), and it also treats the quotes ‘ ’ ´ as punctuation. SQuAD's rule is the one in
    common use for both sets.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals one of the answers after normalisation, else 0."""
    _require_answers(answers)
    predicted = normalize(prediction)
    return float(any(predicted == normalize(answer) for answer in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The harmonic mean of word precision and recall, words counted with repeats, for the answer that suits best."""
    _require_answers(answers)
    predicted = normalize(prediction).split()
    return max(_f1(predicted, normalize(answer).split()) for answer in answers)


def constant_answer_chance(questions: Iterable[Question]) -> float:
    """The exact match of always giving one answer, the best one for each relation (for all where there are none).

    This is what a model scores that knows which answers are frequent, and no fact: the level that forgetting falls to.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    num_questions = 0
    for question in questions:
        counts[question.relation].update({normalize(answer) for answer in question.answers})
        num_questions += 1
    if not num_questions:
        raise ValueError("chance of no questions is not defined. Give at least one question.")
    return sum(max(relation.values()) for relation in counts.values()) / num_questions


def _f1(predicted: list[str], answer: list[str]) -> float:
    if not predicted or not answer:  # both empty is a match, as in SQuAD 2.0
        return float(predicted == answer)
    common = (Counter(predicted) & Counter(answer)).total()
    return 2 * common / (len(predicted) + len(answer))


def _require_answers(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"answers is {answers!r}, but must be a non-empty list of strings. Repair the question file.")
