"""English questions with their answers as sentences, by the kind of question: who, what, which,
where, when, how many.

`declare` moves the answer to where the question word asks for it. It knows some two hundred
verbs and no grammar beyond that, so a question that it cannot take apart is declared around the
question word alone, or not at all.
"""

import re
from dataclasses import dataclass, replace

from memlm.data.stating.verbs import BASES, BE, DO, MODALS, is_finite, is_participle, past, third_person

PREPOSITIONS = frozenset(
    [
        "in",
        "on",
        "at",
        "by",
        "to",
        "for",
        "from",
        "with",
        "of",
        "into",
        "under",
        "over",
        "after",
        "before",
        "about",
        "during",
        "through",
        "against",
        "as",
        "between",
        "behind",
        "near",
        "upon",
    ]
)
QUESTION_WORDS = frozenset(["who", "whom", "what", "which", "where", "when", "whose", "how"])
TIMES = {"year": "in", "month": "in", "decade": "in", "century": "in", "day": "on", "date": "on", "night": "on"}
PRONOUNS = {"what": "the thing that", "who": "the one that", "whom": "the one that"}
"""Never "the one who": with it a description would repeat the question."""
INDEFINITE = ("a ", "an ", "some ", "any ")
MOTION = frozenset(["go", "move", "return", "travel"])
"""Verbs that are asked where to."""
YEAR_OR_MONTH = re.compile(r"^(?:(?:early|late|mid)[- ])?(?:\w+ )?\d{3,4}s?$")
DAY = re.compile(r"\b\d{1,2}(?:st|nd|rd|th)?\b")
ENDS_IN_YEAR = re.compile(r"\b\d{4}$")
MONTH_AND_DAY = re.compile(r"^\w+ \d{1,2}(?:st|nd|rd|th)?$")


@dataclass(frozen=True)
class Declared:
    """A question with its answer as parts of sentences, without capital and stop."""

    sentence: str
    """The answer in the place of the question word."""
    description: str = ""
    """What the answer is, as a noun phrase: "the boxer who said that"."""
    verb: str = "is"
    """The verb between the answer and its description."""
    emphasis: str = ""
    """A sentence with the answer in front: "it was in Nice that Ada was born"."""


def declare(question: str, answer: str) -> Declared | None:
    """The question and its answer as a sentence; None for a question in which no usable question
    word is found."""
    words = _words(question)
    lowered = [word.lower() for word in words]
    if len(words) < 2:
        return None
    for opening in (["name"], ["can", "you", "name"]):
        if lowered[: len(opening)] == opening:
            named = _text(words[len(opening) :])
            return Declared(f"{named} is {answer}", named)
    begins = next((i for i, word in enumerate(words) if i and words[i - 1].endswith(",") and _asks(lowered[i:])), 0)
    if begins and lowered[0] not in QUESTION_WORDS:
        found = declare(_text(words[begins:]), answer)
        return found and replace(found, sentence=f"{_text(words[:begins])} {found.sentence}", emphasis="")
    preposition = ""
    if len(words) > 2 and lowered[0] in PREPOSITIONS and lowered[1] in QUESTION_WORDS:
        preposition, words, lowered = lowered[0], words[1:], lowered[1:]
    first, rest = lowered[0], words[1:]
    if not rest:
        return None
    if first == "how" and lowered[1] in ("many", "much"):
        return _how_many(rest[1:], answer, lowered[1])
    if first in ("where", "when"):
        return _where_or_when(first, rest, answer)
    if first in ("who", "whom"):
        return _plain(first, rest, answer, preposition)
    if first in ("what", "which"):
        if rest[0].lower() in BE | DO | MODALS or is_finite(rest[0].lower()):
            return _plain(first, rest, answer, preposition)
        return _with_noun(rest, answer, preposition)
    return _in_place(question, answer)


def _asks(words: list[str]) -> bool:
    return words[0] in QUESTION_WORDS or (len(words) > 1 and words[0] in PREPOSITIONS and words[1] in QUESTION_WORDS)


def _words(question: str) -> list[str]:
    text = question.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':  # a field of a CSV file
        text = text[1:-1]
    return text.replace('""', '"').rstrip("?!.; ").split()


def _plain(first: str, rest: list[str], answer: str, preposition: str) -> Declared | None:
    """Questions with `who`, or with `what` without a noun: it is the subject or the object of the
    words after it."""
    verb, after = rest[0].lower(), rest[1:]
    if verb in DO:
        return _with_do(verb, after, answer, preposition)
    if not after:
        return None
    if verb in BE:
        if preposition or after[-1].lower() in PREPOSITIONS:
            return _split_passive(verb, after, f"{preposition} {answer}".strip())
        if is_participle(after[0].lower()) or after[0].lower() in PREPOSITIONS:
            return Declared(
                f"{answer} {verb} {_text(after)}", f"{PRONOUNS.get(first, 'the one that')} {verb} {_text(after)}"
            )
        described = _text(after)
        if described.lower().startswith(INDEFINITE):  # "an oak is a tree" makes no tree an oak
            return Declared(f"{described} {verb} {answer}")
        return Declared(f"{described} {verb} {answer}", described, verb)
    return Declared(f"{answer} {_text(rest)}", f"{PRONOUNS.get(first, 'the one that')} {_text(rest)}")


def _with_noun(rest: list[str], answer: str, preposition: str) -> Declared | None:
    """Questions with `which` or `what` and a noun."""
    cut = next((i for i, word in enumerate(rest) if i and _begins_verb(word)), None)
    if cut is None or cut == len(rest) - 1:
        return None
    noun, verb, after = _text(rest[:cut]), rest[cut].lower(), rest[cut + 1 :]
    if noun.endswith(","):
        return Declared(f"{answer}, {_text(rest).partition(', ')[2]}")
    if not preposition and rest[cut - 1].lower() in TIMES and verb in DO | BE:
        preposition = TIMES[rest[cut - 1].lower()]
    if verb in DO:
        found = _with_do(verb, after, answer, preposition)
        return found and Declared(found.sentence, _asked_for(noun, found, answer, preposition))
    if verb in BE and (preposition or after[-1].lower() in PREPOSITIONS):
        found = _split_passive(verb, after, f"{preposition} {answer}".strip())
        return found and Declared(found.sentence, _asked_for(noun, found, answer, preposition))
    return Declared(f"{answer} {_text(rest[cut:])}", f"the {noun} that {_text(rest[cut:])}")


def _asked_for(noun: str, found: Declared, answer: str, preposition: str) -> str:
    clause = " ".join(found.sentence.replace(answer, "", 1).split())
    if preposition:
        return f"the {noun} {preposition} which {clause.removesuffix(preposition).strip()}"
    return f"the {noun} that {clause}"


def _begins_verb(word: str) -> bool:
    lowered = word.lower()
    return word.islower() and (is_finite(lowered) or (lowered.endswith("ly") and len(lowered) > 4))


def _with_do(verb: str, after: list[str], answer: str, preposition: str) -> Declared | None:
    """`did S invent ...` becomes `S invented the answer ...`."""
    cut = next((i for i, word in enumerate(after) if i and word in BASES), None)
    if cut is None:
        return None
    subject, base, tail = _text(after[:cut]), after[cut], after[cut + 1 :]
    inflected = {"did": past(base), "does": third_person(base), "do": base}[verb]
    if len(tail) > 1 and tail[0] == "and" and tail[1] in BASES:
        second = {"did": past(tail[1]), "does": third_person(tail[1]), "do": tail[1]}[verb]
        inflected, tail = f"{inflected} and {second}", tail[2:]
    if preposition:
        return Declared(f"{subject} {inflected} {_text(tail)} {preposition} {answer}".replace("  ", " "))
    if tail and tail[-1].lower() not in PREPOSITIONS:
        return Declared(f"{subject} {inflected} {answer} {_text(tail)}")
    return Declared(f"{subject} {inflected} {_text([*tail, answer])}")


def _split_passive(verb: str, after: list[str], answer: str) -> Declared | None:
    """`was S created by` becomes `S was created by the answer`."""
    cut = next((i for i, word in enumerate(after) if i and is_participle(word.lower())), None)
    if cut is None:
        if after[-1].lower() in PREPOSITIONS and len(after) > 1:
            return Declared(f"{_text(after[:-1])} {verb} {after[-1]} {answer}")
        return None
    return Declared(f"{_text(after[:cut])} {verb} {_text(after[cut:])} {answer}")


def _where_or_when(first: str, rest: list[str], answer: str) -> Declared | None:
    verb, after = rest[0].lower(), rest[1:]
    preposition = "to" if first == "where" and MOTION & set(after) else _preposition_for(first, answer)
    place = f"{preposition} {answer}".strip()
    if not after:
        return None
    if verb in DO:
        cut = next((i for i, word in enumerate(after) if i and word in BASES), None)
        if cut is None:
            return None
        inflected = {"did": past(after[cut]), "does": third_person(after[cut]), "do": after[cut]}[verb]
        subject, tail = _text(after[:cut]), _text(after[cut + 1 :])
        stated = f"{subject} {inflected} {tail}".strip()
        if preposition == "to":
            return Declared(f"{subject} {inflected} {place} {tail}".strip(), emphasis=f"it is {place} that {stated}")
    elif verb in BE:
        cut = next((i for i, word in enumerate(after) if i and is_participle(word.lower())), None)
        stated = f"{_text(after[:cut])} {verb} {_text(after[cut:])}" if cut else f"{_text(after)} {verb}"
    else:
        return None
    begins = "it was" if verb in ("did", "was", "were") else "it is"
    return Declared(f"{stated} {place}", emphasis=f"{begins} {place} that {stated}")


def _preposition_for(first: str, answer: str) -> str:
    if answer.split()[0].lower() in PREPOSITIONS:
        return ""
    if first == "when" and _is_date_with_day(answer) and not YEAR_OR_MONTH.match(answer):
        return "on"
    return "in"


def _is_date_with_day(answer: str) -> bool:
    with_year = ENDS_IN_YEAR.search(answer[-5:]) and DAY.search(answer[:-4])
    return bool(with_year or MONTH_AND_DAY.match(answer))


def _how_many(rest: list[str], answer: str, many: str) -> Declared | None:
    cut = next((i for i, word in enumerate(rest) if i and word.islower() and is_finite(word)), None)
    if cut is None or cut == len(rest) - 1:
        return None
    noun, verb, after = _text(rest[:cut]), rest[cut].lower(), rest[cut + 1 :]
    amount = "number" if many == "many" else "amount"
    if verb in DO:
        amounts = f"{answer} {noun}"
        found = _with_do(verb, after, amounts, "")
        return found and Declared(found.sentence, _asked_for(f"{amount} of {noun}", found, amounts, ""))
    if verb in BE and after[0].lower() == "there":
        return Declared(
            f"there {verb} {answer} {noun} {_text(after[1:])}", f"the {amount} of {noun} {_text(after[1:])}"
        )
    return Declared(f"{answer} {noun} {_text(rest[cut:])}", f"the {amount} of {noun} that {_text(rest[cut:])}")


def _in_place(question: str, answer: str) -> Declared | None:
    """Questions with the question word inside: "X is the capital of which country" becomes "X is
    the capital of the answer"."""
    words = _words(question)
    cut = next((i for i, word in enumerate(words) if i and _is_question_word(word)), None)
    if cut is None or words[cut - 1].endswith((".", "?", ",", ":")) or (cut == 1 and words[0].lower() in PREPOSITIONS):
        return None  # what follows stands in a question's order
    word, tail = words[cut], words[cut + 1 :]
    if word.lower() in ("which", "what"):
        length = _length_of_noun(tail)
        if length is None:
            return None
        tail, ends = tail[length:], tail[length - 1 : length]
        mark = "," if ends and ends[0].endswith(",") else ""
    else:
        mark = "," if word.endswith(",") else "'s" if word.lower() == "whose" else ""
    return Declared(f"{_text(words[:cut])} {_text([answer + mark, *tail])}")


def _is_question_word(word: str) -> bool:
    return word.lower().rstrip(",") in QUESTION_WORDS


def _length_of_noun(words: list[str]) -> int | None:
    """The number of words that name what is asked for; None where a verb follows them, since that
    verb may stand in a question's order."""
    for i, word in enumerate(words):
        if word.lower() in PREPOSITIONS and word.lower() != "of":
            return i
        if word.endswith(","):
            return i + 1
        if word.lower() in BE | DO | MODALS or (i and _begins_verb(word)):
            return None
    return len(words)


def _text(words: list[str]) -> str:
    return " ".join(words)
