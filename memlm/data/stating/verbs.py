"""English verbs and their forms, as far as they are needed to put questions into statements. The
words are in verbs.toml."""

from dataclasses import dataclass

from memlm.data.word_lists import read_word_lists


@dataclass(frozen=True, kw_only=True)
class VerbLists:
    regular: frozenset[str]
    """Verbs whose past ends in -ed, by their base form."""
    irregular_pasts: dict[str, str]
    """The simple past of the other verbs, by their base form."""
    participles: frozenset[str]
    """Past participles, and adjectives that stand in the same place ("famous for")."""
    complements: frozenset[str]
    """Words in the place of a participle that are never a verb."""
    be: frozenset[str]
    do: frozenset[str]
    modals: frozenset[str]


def _read() -> VerbLists:
    lists = read_word_lists(__package__, "verbs")
    pasts = lists.pop("irregular_pasts")
    return VerbLists(irregular_pasts=pasts, **{name: frozenset(words) for name, words in lists.items()})


VERBS = _read()
BASES = VERBS.regular | VERBS.irregular_pasts.keys()
BE, DO, MODALS = VERBS.be, VERBS.do, VERBS.modals


def third_person(base: str) -> str:
    if base in ("be", "have", "do", "go"):
        return {"be": "is", "have": "has", "do": "does", "go": "goes"}[base]
    if base.endswith("y") and base[-2] not in "aeiou":
        return f"{base[:-1]}ies"
    return base + ("es" if base.endswith(("s", "x", "ch", "sh")) else "s")


def past(base: str) -> str:
    if base in VERBS.irregular_pasts:
        return VERBS.irregular_pasts[base]
    if base.endswith("e"):
        return f"{base}d"
    if base.endswith("y") and base[-2] not in "aeiou":
        return f"{base[:-1]}ied"
    if base in ("commit", "star", "stop", "top", "wed", "plan", "refer", "compel"):
        return f"{base}{base[-1]}ed"
    return f"{base}ed"


FINITE = BASES | frozenset(map(third_person, BASES)) | frozenset(map(past, BASES)) | BE | DO | MODALS


def is_participle(word: str) -> bool:
    """Whether a word is a participle, or an adjective that a question puts in the same place."""
    is_listed = word in VERBS.participles or word in VERBS.complements
    return is_listed or (word.endswith("ed") and len(word) > 4 and word.islower())


def is_finite(word: str) -> bool:
    return word in FINITE or (is_participle(word) and word not in VERBS.complements)
