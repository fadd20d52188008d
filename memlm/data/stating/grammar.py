"""What would the answer to this question say as a sentence? English questions, by their kind:
who, what, which, where, when, how many.

`declare` moves the answer to where the question word asks for it. It knows some two hundred
verbs and no grammar beyond that, so a question that it cannot take apart is declared around the
question word alone, or not at all.
"""

import re
from dataclasses import dataclass

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
PRONOUNS = {"what": "the thing", "who": "the one", "whom": "the one"}
YEAR_OR_MONTH = re.compile(r"^(?:(?:early|late|mid)[- ])?(?:\w+ )?\d{3,4}s?$")
DAY = re.compile(r"\b\d{1,2}(?:st|nd|rd|th)?\b")
ENDS_IN_YEAR = re.compile(r"\b\d{4}$")
MONTH_AND_DAY = re.compile(r"^\w+ \d{1,2}(?:st|nd|rd|th)?$")


@dataclass(frozen=True)
class Declared:
    """A question with its answer as sentences, without capital and stop."""

    sentence: str
    """The answer in the place of the question word."""
    description: str = ""
    """What the answer is, as a noun phrase: "the boxer who said that"."""


def declare(question: str, answer: str) -> Declared | None:
    """None for a question in which no question word is found where one can be put right."""
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
        return found and Declared(f"{_text(words[:begins])} {found.sentence}", found.description)
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
    return text.replace('""', '"').rstrip("?!. ").split()


def _plain(first: str, rest: list[str], answer: str, preposition: str) -> Declared | None:
    """who, or what without a noun: the subject or the object of what follows."""
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
                f"{answer} {verb} {_text(after)}", f"{PRONOUNS.get(first, 'the one')} that {verb} {_text(after)}"
            )
        return Declared(f"{_text(after)} {verb} {answer}", _text(after))
    return Declared(f"{answer} {_text(rest)}", f"{PRONOUNS.get(first, 'the one')} that {_text(rest)}")


def _with_noun(rest: list[str], answer: str, preposition: str) -> Declared | None:
    """which or what with a noun."""
    cut = next((i for i, word in enumerate(rest) if i and _begins_verb(word)), None)
    if cut is None or cut == len(rest) - 1:
        return None
    noun, verb, after = _text(rest[:cut]), rest[cut].lower(), rest[cut + 1 :]
    if noun.endswith(","):
        return Declared(f"{answer}, {_text(rest)}")
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
    """did S invent ... -> S invented the answer ..."""
    cut = next((i for i, word in enumerate(after) if i and word in BASES), None)
    if cut is None:
        return None
    subject, base, tail = _text(after[:cut]), after[cut], after[cut + 1 :]
    inflected = {"did": past(base), "does": third_person(base), "do": base}[verb]
    if preposition:
        return Declared(f"{subject} {inflected} {_text(tail)} {preposition} {answer}".replace("  ", " "))
    if tail and tail[-1].lower() not in PREPOSITIONS:
        return Declared(f"{subject} {inflected} {answer} {_text(tail)}")
    return Declared(f"{subject} {inflected} {_text([*tail, answer])}")


def _split_passive(verb: str, after: list[str], answer: str) -> Declared | None:
    """was S created by -> S was created by the answer"""
    cut = next((i for i, word in enumerate(after) if i and is_participle(word.lower())), None)
    if cut is None:
        if after[-1].lower() in PREPOSITIONS and len(after) > 1:
            return Declared(f"{_text(after[:-1])} {verb} {after[-1]} {answer}")
        return None
    return Declared(f"{_text(after[:cut])} {verb} {_text(after[cut:])} {answer}")


def _where_or_when(first: str, rest: list[str], answer: str) -> Declared | None:
    place = f"{_preposition_for(first, answer)} {answer}".strip()
    verb, after = rest[0].lower(), rest[1:]
    if not after:
        return None
    if verb in DO:
        cut = next((i for i, word in enumerate(after) if i and word in BASES), None)
        if cut is None:
            return None
        inflected = {"did": past(after[cut]), "does": third_person(after[cut]), "do": after[cut]}[verb]
        sentence = f"{_text(after[:cut])} {inflected} {_text(after[cut + 1 :])} {place}".replace("  ", " ")
    elif verb in BE:
        cut = next((i for i, word in enumerate(after) if i and is_participle(word.lower())), None)
        split = f"{_text(after[:cut])} {verb} {_text(after[cut:])}" if cut else f"{_text(after)} {verb}"
        sentence = f"{split} {place}"
    else:
        return None
    noun = "place where" if first == "where" else "time when"
    return Declared(sentence, f"the {noun} {sentence.removesuffix(place).strip()}")


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
        found = _with_do(verb, after, f"{answer} {noun}", "")
        return found and Declared(found.sentence, f"the {amount} of {noun}: {_text(after)}")
    if verb in BE and after[0].lower() == "there":
        return Declared(
            f"there {verb} {answer} {noun} {_text(after[1:])}", f"the {amount} of {noun} {_text(after[1:])}"
        )
    return Declared(f"{answer} {noun} {_text(rest[cut:])}", f"the {amount} of {noun} that {_text(rest[cut:])}")


def _in_place(question: str, answer: str) -> Declared | None:
    """The question word stands inside: "X is the capital of which country" -> "X is the capital
    of the answer"."""
    words = _words(question)
    cut = next((i for i, word in enumerate(words) if i and word.lower() in QUESTION_WORDS), None)
    if cut is None:
        return None
    tail = words[cut + 1 :]
    if words[cut].lower() in ("which", "what") and len(tail) > 2:
        return None  # where the noun ends is anyone's guess
    kept = tail if words[cut].lower() not in ("which", "what") else []
    return Declared(f"{_text(words[:cut])} {_text([answer, *kept])}")


def _text(words: list[str]) -> str:
    return " ".join(words)
