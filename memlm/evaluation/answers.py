"""Normalised exact match and F1 of generated answers, the measures of TriviaQA and
NaturalQuestions.

Each set's own scorer normalises in its own way, and its task here does the same. Sources of the
definitions: SQuAD's scorer (https://github.com/rajpurkar/SQuAD-explorer, evaluate-2.0.py),
TriviaQA's (https://github.com/mandarjoshi90/triviaqa, evaluation/triviaqa_evaluation.py) and
NQ-open's (https://github.com/google-research-datasets/natural-questions, nq_open).
"""

import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from memlm.data.questions.records import Question

ARTICLES = re.compile(r"\b(?:an?|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
SPACE_FOR_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´", " "))

Normalize = Callable[[str], str]


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and surplus white space: SQuAD's rule, and
    that of sets without one."""
    return _without_articles(text.lower().translate(WITHOUT_PUNCTUATION))


def normalize_triviaqa(text: str) -> str:
    """SQuAD's normalisation, but with a space where that deletes ("U.S." is "u s" here), and the
    quotes ‘ ’ ´ are punctuation too."""
    return _without_articles(text.lower().translate(SPACE_FOR_PUNCTUATION))


def normalize_nq_open(text: str) -> str:
    """SQuAD's normalisation, but letters and their accents are taken apart first, so that both ways
    to write é are one."""
    return normalize(unicodedata.normalize("NFD", text))


def comparable(text: str, normalize: Normalize = normalize) -> str:
    """The text normalised; where nothing is left ("The The", "A", "!?"), with its articles, or
    as it is written.

    The sets' own scorers compare empty texts there, so that an empty answer is right. Empty for
    blank text alone.
    """
    return normalize(text) or " ".join(text.lower().translate(WITHOUT_PUNCTUATION).split()) or text.strip()


def exact_match(prediction: str, answers: Sequence[str], normalize: Normalize = normalize) -> float:
    """1 if the prediction equals one of the answers after normalisation, else 0; a blank
    prediction is never right."""
    _require_answers(answers)
    predicted = comparable(prediction, normalize)
    return float(bool(predicted) and any(predicted == comparable(answer, normalize) for answer in answers))


def f1(prediction: str, answers: Sequence[str], normalize: Normalize = normalize) -> float:
    """The harmonic mean of word precision and recall, words counted with repeats, for the answer
    that suits best."""
    _require_answers(answers)
    predicted = comparable(prediction, normalize).split()
    return max(_f1(predicted, comparable(answer, normalize).split()) for answer in answers)


def constant_answer_chance(questions: Iterable[Question], normalize: Normalize = normalize) -> float:
    """The exact match of always giving one answer, the best one for each relation (for all where
    there are none).

    A model that knows which answers are frequent, but no fact, scores this: the level that
    forgetting falls to.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    num_questions = 0
    for question in questions:
        counts[question.relation].update({comparable(answer, normalize) for answer in question.answers})
        num_questions += 1
    if not num_questions:
        raise ValueError("chance of no questions is not defined. Give at least one question.")
    return sum(max(relation.values()) for relation in counts.values()) / num_questions


def _without_articles(text: str) -> str:
    return " ".join(ARTICLES.sub(" ", text).split())


def _f1(predicted: list[str], answer: list[str]) -> float:
    if not predicted or not answer:
        return 0.0
    common = (Counter(predicted) & Counter(answer)).total()
    return 2 * common / (len(predicted) + len(answer))


def _require_answers(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"answers is {answers!r}, but must be a non-empty list of strings. Repair the question file.")
