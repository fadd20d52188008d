"""Augment a chunk by rules, without a model. This serves tests and laptops; the result is much
less varied than Active Reading's.

Each text is one exercise on the chunk's sentences (their order, gaps, questions, headlines, first
letters, notes) in one of several frames. A pure function of chunk, number and seed.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np

from memlm.data.documents.chunking import Chunk, sentences_of
from memlm.data.mentions import plain

_WORD = re.compile(r"\w[\w'’-]*")
_NAME_OR_NUMBER = re.compile(r"\b(?:[A-Z][\w'’-]+(?:\s+[A-Z][\w'’-]+)*|\d[\d,.]*\d|\d)")
"""Names and numbers, which questions usually ask about."""
ENDS_WITH_PUNCTUATION = re.compile(r"[.!?;,…][\"'”’)\]]*$")
MAX_HEADING_WORDS = 8
TRIES_PER_TEXT = 6  # exercises may repeat an earlier text, since a short chunk has few orders and gaps

Random = np.random.Generator
Exercise = Callable[[str, list[str], Random], str]


def augment_by_rules(
    chunk: Chunk, num_augmentations: int, *, seed: int, fits: Callable[[str], bool] = lambda text: True
) -> list[str]:
    """Up to num_augmentations different texts that fit. A chunk of a few words gives fewer; a chunk
    that is as long as a text may be gives only itself."""
    key = hashlib.sha256(f"{seed} {chunk.id} {chunk.titled}".encode()).digest()
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big")))
    title, sentences = _titled_sentences(chunk)
    texts: dict[str, str] = {}
    for exercise in islice(cycle(EXERCISES), TRIES_PER_TEXT * num_augmentations):
        if len(texts) == num_augmentations:
            break
        text = exercise(title, sentences, random)
        if plain(text) not in texts and fits(text):
            texts[plain(text)] = text
    return list(texts.values()) or [chunk.text]


def _titled_sentences(chunk: Chunk) -> tuple[str, list[str]]:
    """The chunk's topic, and its sentences. A heading on its first line is not a sentence, and is
    added to the title."""
    title, sentences = chunk.title or "this text", sentences_of(chunk.text)
    first, *others = sentences or [""]
    unfinished = len(first.split()) <= MAX_HEADING_WORDS and not ENDS_WITH_PUNCTUATION.search(first)
    if unfinished and others and ENDS_WITH_PUNCTUATION.search(others[0]) and f"{first}\n" in chunk.text:
        return f"{title}: {first}", others
    return title, sentences


def _as_it_is(title: str, sentences: list[str], random: Random) -> str:
    return _framed(title, " ".join(sentences), random)


def _in_another_order(title: str, sentences: list[str], random: Random) -> str:
    return _framed(title, " ".join(sentences[i] for i in random.permutation(len(sentences))), random)


def _with_gaps(title: str, sentences: list[str], random: Random) -> str:
    """A cloze exercise, with the missing parts listed below."""
    left_out = [_pick(_key_parts(sentence), random) for sentence in sentences]
    gapped = [_gapped(sentence, part) for sentence, part in zip(sentences, left_out, strict=True)]
    kept = random.random(len(sentences)) < 0.4  # some sentences stay complete, so that each text has different gaps
    text = " ".join(whole if keep else gap for whole, gap, keep in zip(sentences, gapped, kept, strict=True))
    answers = "; ".join(part for part, keep in zip(left_out, kept, strict=True) if not keep)
    return f"Fill the gaps. {title}: {text}\nAnswers: {answers or 'there are none'}."


def _as_questions(title: str, sentences: list[str], random: Random) -> str:
    lines = [f"Questions about {title}."]
    for index in random.permutation(len(sentences)):
        sentence = sentences[index]
        part = _pick(_key_parts(sentence), random)
        question, answer = QUESTIONS[int(random.integers(len(QUESTIONS)))]
        places = {"part": part, "sentence": sentence, "gap": _gapped(sentence, part)}
        lines.append(f"Q: {question.format(**places)} A: {answer.format(**places)}")
    return "\n".join(lines)


def _under_headlines(title: str, sentences: list[str], random: Random) -> str:
    lines = []
    for sentence in _rotated(sentences, random):
        parts = list(dict.fromkeys(_key_parts(sentence)))
        named = [parts[i] for i in sorted(random.permutation(len(parts))[: 1 + int(random.integers(3))])]
        lines.append(f"{title.upper()}: {', '.join(named)}\n{sentence}")
    return "\n".join(lines)


def _by_first_letters(title: str, sentences: list[str], random: Random) -> str:
    """Abbreviated sentences to recall, followed by the complete sentences."""
    hinted = " ".join(_abbreviated(sentence, random) for sentence in sentences)
    return f"Recall what is known of {title} from the first letters. {hinted}\nIn full: {' '.join(sentences)}"


def _as_notes(title: str, sentences: list[str], random: Random) -> str:
    mark = _pick(("-", "*", "•", "{number}."), random)
    lines = [f"{mark.format(number=i)} {sentence}" for i, sentence in enumerate(_rotated(sentences, random), start=1)]
    return "\n".join([_pick(NOTES, random).format(title=title), *lines])


EXERCISES: tuple[Exercise, ...] = (
    _as_it_is,
    _as_questions,
    _with_gaps,
    _in_another_order,
    _under_headlines,
    _by_first_letters,
    _as_notes,
)
FRAMES = (
    "{title}\n{text}",
    "About {title}: {text}",
    "What is there to know about {title}? {text}",
    "Here is a text on {title}. {text}",
    "{text}\nThis is about {title}.",
    "To remember of {title}: {text}",
)
QUESTIONS = (
    ("What does the text say about {part}?", "{sentence}"),
    ("Which sentence names {part}?", "{sentence}"),
    ("What is known of {part}?", "{sentence}"),
    ('What is left out of "{gap}"?', "{part}"),
)
NOTES = ("Notes on {title}", "{title}, point by point", "A list of facts: {title}", "Study sheet. {title}")


def _framed(title: str, text: str, random: Random) -> str:
    return _pick(FRAMES, random).format(title=title, text=text)


def _pick(options: Sequence[str], random: Random) -> str:
    return options[int(random.integers(len(options)))]


def _rotated(sentences: list[str], random: Random) -> list[str]:
    start = int(random.integers(len(sentences)))
    return sentences[start:] + sentences[:start]


def _key_parts(sentence: str) -> list[str]:
    """Names and numbers after the first word; if there are none, the longest words."""
    found = [match.group() for match in _NAME_OR_NUMBER.finditer(sentence) if match.start() > 0]
    return found or sorted(_WORD.findall(sentence), key=len)[-2:] or [sentence]


def _gapped(sentence: str, part: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "____", sentence, count=1)


def _abbreviated(sentence: str, random: Random) -> str:
    """The sentence with some words reduced to their first letter."""
    return _WORD.sub(lambda match: f"{match.group()[0]}." if random.random() < 0.6 else match.group(), sentence)
