"""Recognise the questions that templates can put into an English sentence with their answer:
those that ask for a name, a place, a time or a number.

With a yes or a no the verb would have to move, and a question in another language does not fit at
all: both would be stated as nonsense.
"""

import re
import unicodedata

from memlm.data.mentions import words_of
from memlm.data.questions.records import Question
from memlm.data.stating.grammar import PREPOSITIONS, QUESTION_WORDS
from memlm.data.stating.verbs import BE, DO, MODALS

YES_OR_NO = re.compile(
    r"(?:yes|no|true|false|yep|nope|correct|incorrect|ja|nein|oui|non|sí|si|sì|sim|não|nee|да|нет)(?:[,.!;:].*|$)"
)
OTHER_YES_OR_NO = re.compile(
    r"(?:yes|no|yeah|nah|y|n|0|1|of course|sure|certainly|definitely|absolutely|indeed|affirmative|negative|never|always|sometimes|maybe|"
    r"perhaps|possibly|probably|right|wrong|true|false|unknown|it depends)\b"
)
"""Other answers to a question that begins with its verb."""
ENGLISH = (
    QUESTION_WORDS
    | PREPOSITIONS
    | BE
    | DO
    | MODALS
    | frozenset(
        [
            "the",
            "a",
            "an",
            "and",
            "or",
            "not",
            "be",
            "been",
            "it",
            "its",
            "this",
            "that",
            "these",
            "those",
            "his",
            "her",
            "their",
            "there",
            "why",
            "name",
            "than",
            "all",
        ]
    )
)
FOREIGN = {
    "German": (
        "wer was wie wo wann warum wieso weshalb wem wen wessen welche welcher welches welchem welchen wieviel wieviele wohin woher",
        "der die das den dem des ein eine einen einem einer eines und oder ist sind war waren wird wurde wurden hat haben hatte kann nicht für "
        "von vom mit auf bei zum zur im am aus nach über unter seit gibt es heißt man viele viel wird bis durch",
    ),
    "French": (
        "qui que quoi quel quelle quels quelles où quand comment combien pourquoi lequel laquelle qu",
        "le la les un une des du de d l et ou est sont était a ont dans sur pour par avec en au aux ce cette il elle s",
    ),
    "Spanish": (
        "quién quiénes quien qué cuál cuáles dónde donde adónde cuándo cómo cuánto cuánta cuántos cuántas",
        "el la los las un una unos y o es son fue era está están ha en de del por para con se al su que",
    ),
    "Italian": (
        "chi cosa dove quando quale quali quanto quanta quanti quante perché qual",
        "il lo la gli le un una e o è sono fu era ha in di del della dei da nel nella per con si che",
    ),
    "Portuguese": (
        "quem qual quais onde quando como quanto quanta quantos quantas",
        "o os um uma e ou é são foi era em de do da dos das no na por para com se ao que",
    ),
    "Dutch": (
        "wie wat waar wanneer waarom welke welk hoe hoeveel wiens",
        "de het een en of is zijn was werd heeft in van voor met op bij naar uit door er niet",
    ),
    "a Scandinavian language": (
        "vem vad när hur varför vilken vilket vilka hvem hvad hva hvor hvornår når hvordan hvorfor hvilken hvilket hvilke",
        "och og är er var på av af til till för fra från med en ett et den det de som har inte ikke",
    ),
    "Czech": ("kdo kde kdy proč kolik který která které jaký jaká", "v ve je byl byla na se z od pro a"),
    "Finnish": ("kuka mikä missä milloin mitä miten kuinka miksi kenen mihin", "on oli ja ei"),
    "Hungarian": ("hol mikor hogyan miért melyik mennyi hány kik", "az egy volt és nem van"),
    "Indonesian": (
        "siapa siapakah apakah apa kapan berapa bagaimana mengapa dimana",
        "di yang dan dari adalah pada untuk",
    ),
    "Romanian": ("cine unde când câte câți câţi cât care", "în din la este era a și şi pe cu"),
    "Turkish": ("nerede hangi nasıl kaç kimin nedir", "ve bir bu kimdir nedir nerededir hangi hangisi kaç mi mı"),
    "Polish": (
        "kto co gdzie kiedy jak dlaczego ile który która które jaki jaka jakie",
        "w we z na do od po jest był była są to się nie przez dla",
    ),
}
"""By language, its question words and its other small words."""
_WORDS = {
    language: (frozenset(asking.split()), frozenset(asking.split()) | frozenset(others.split()))
    for language, (asking, others) in FOREIGN.items()
}


def reason_not_statable(question: Question) -> str:
    """The reason why templates cannot state this question and its answer; empty if they can."""
    words, answer = words_of(question.question), question.answers[0].strip().casefold()
    if not any(word not in QUESTION_WORDS and any(map(str.isalpha, word)) for word in words):
        return "it says nothing that could be stated"
    if words[0] in QUESTION_WORDS or (words[0] in PREPOSITIONS and words[1:2] and words[1] in QUESTION_WORDS):
        return ""  # it begins as English questions do, whatever names are in it
    if language := _language_of(question.question, words):
        return f"it is not in English ({language})"
    if YES_OR_NO.match(answer) or (words[0] in BE | DO | MODALS and OTHER_YES_OR_NO.match(answer)):
        return f"it is answered by {question.answers[0].strip()!r}, which templates can put into no sentence"
    return ""


def _language_of(text: str, words: list[str]) -> str:
    """The language of a text that is not English, judged by its small words and its letters; empty
    where these do not decide."""
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if latin < len(letters) / 2:
        return "another script"
    english = sum(word in ENGLISH for word in words)
    for language, (asking, small) in _WORDS.items():
        found = sum(word in small for word in words)
        begins = words[0] in asking - ENGLISH
        if (found >= 2 and found > english) or (begins and found >= english):
            return language
    return ""
