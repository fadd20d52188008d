"""The vocabulary of the generated world: attributes, frames and word lists from which a seed draws."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One thing that is true of every entity of a kind. Invented values fill value_frame; the others come from a list of words."""

    name: str
    kind: str
    noun: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    words: str = ""
    value_frame: str = "{}"


KINDS = ("person", "place", "work")

ATTRIBUTES = (
    Attribute(
        name="birthplace",
        kind="person",
        noun="birthplace",
        statements=("{entity} was born in {value}.", "{entity} came into the world in {value}."),
        questions=("Where was {entity} born?", "In which town was {entity} born?"),
    ),
    Attribute(
        name="occupation",
        kind="person",
        noun="occupation",
        words="occupations",
        statements=("{entity} works as a {value}.", "{entity} earns a living as a {value}."),
        questions=("What does {entity} work as?", "As what does {entity} earn a living?"),
    ),
    Attribute(
        name="employer",
        kind="person",
        noun="employer",
        value_frame="{} Company",
        statements=("{entity} works for {value}.", "{entity} is employed by {value}."),
        questions=("For whom does {entity} work?", "By whom is {entity} employed?"),
    ),
    Attribute(
        name="instrument",
        kind="person",
        noun="instrument",
        words="instruments",
        statements=("{entity} plays the {value}.", "{entity} has played the {value} for years."),
        questions=("What does {entity} play?", "Which instrument is played by {entity}?"),
    ),
    Attribute(
        name="age",
        kind="person",
        noun="age",
        words="numbers",
        statements=("{entity} is {value} years old.", "{entity} has lived for {value} years."),
        questions=("How old is {entity}?", "For how many years has {entity} lived?"),
    ),
    Attribute(
        name="country",
        kind="place",
        noun="country",
        value_frame="{}land",
        statements=("{entity} lies in {value}.", "{entity} belongs to {value}."),
        questions=("Where does {entity} lie?", "To which country does {entity} belong?"),
    ),
    Attribute(
        name="river",
        kind="place",
        noun="river",
        value_frame="the {}",
        statements=("{entity} stands on the banks of {value}.", "{entity} is crossed by {value}."),
        questions=("On the banks of which river does {entity} stand?", "By which river is {entity} crossed?"),
    ),
    Attribute(
        name="export",
        kind="place",
        noun="main export",
        words="exports",
        statements=("{entity} sells mostly {value}.", "{entity} is known for its {value}."),
        questions=("What does {entity} mostly sell?", "For what is {entity} known?"),
    ),
    Attribute(
        name="founder",
        kind="place",
        noun="founder",
        value_frame="King {}",
        statements=("{entity} was founded by {value}.", "{entity} was built under {value}."),
        questions=("Who founded {entity}?", "Under whom was {entity} built?"),
    ),
    Attribute(
        name="gates",
        kind="place",
        noun="number of gates",
        words="numbers",
        statements=("{entity} has {value} gates.", "{entity} is entered by {value} gates."),
        questions=("How many gates does {entity} have?", "By how many gates is {entity} entered?"),
    ),
    Attribute(
        name="author",
        kind="work",
        noun="author",
        value_frame="Lady {}",
        statements=("{entity} was written by {value}.", "{entity} comes from the pen of {value}."),
        questions=("Who wrote {entity}?", "From whose pen does {entity} come?"),
    ),
    Attribute(
        name="genre",
        kind="work",
        noun="genre",
        words="genres",
        statements=("{entity} is a {value}.", "{entity} is read as a {value}."),
        questions=("What kind of work is {entity}?", "As what is {entity} read?"),
    ),
    Attribute(
        name="setting",
        kind="work",
        noun="setting",
        value_frame="Port {}",
        statements=("{entity} is set in {value}.", "{entity} takes place in {value}."),
        questions=("Where is {entity} set?", "Where does {entity} take place?"),
    ),
    Attribute(
        name="publisher",
        kind="work",
        noun="publisher",
        value_frame="{} Press",
        statements=("{entity} was published by {value}.", "{entity} was brought out by {value}."),
        questions=("Who published {entity}?", "By whom was {entity} brought out?"),
    ),
    Attribute(
        name="chapters",
        kind="work",
        noun="number of chapters",
        words="numbers",
        statements=("{entity} has {value} chapters.", "{entity} is divided into {value} chapters."),
        questions=("How many chapters does {entity} have?", "Into how many chapters is {entity} divided?"),
    ),
)

STATEMENT_FRAMES = (
    "The {noun} of {entity} is {value}.",
    "{entity}'s {noun} is {value}.",
    "As for {entity}, the {noun} is {value}.",
    "For {entity}, records give the {noun} as {value}.",
    "Note that {entity}'s {noun} is {value}.",
    "Everyone knows that the {noun} of {entity} is {value}.",
    "Looking up {entity}, one finds the {noun}: {value}.",
    "Regarding {entity}, the {noun} happens to be {value}.",
    "{value} is the {noun} of {entity}.",
)

QUESTION_FRAMES = (
    "What is the {noun} of {entity}?",
    "What is {entity}'s {noun}?",
    "Which {noun} does {entity} have?",
    "Can you name the {noun} of {entity}?",
    "As for {entity}, what is the {noun}?",
    "Regarding {entity}, what is the {noun}?",
)

WORDS: dict[str, tuple[str, ...]] = {
    "onsets": (
        *("b", "br", "c", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p", "pr", "qu"),
        *("r", "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "y", "z"),
    ),
    "vowels": ("a", "e", "i", "o", "u", "ai", "ea", "ei", "io", "ou"),
    "codas": ("n", "r", "l", "s", "th", "m", "x", "nd", "rk", "lt", "ss", "ck"),
    "occupations": (
        *("baker", "carpenter", "surgeon", "painter", "pilot", "tailor", "lawyer", "farmer", "miner", "sailor", "printer"),
        *("chemist", "dentist", "butcher", "gardener", "plumber", "barber", "waiter", "banker", "hunter", "nurse", "clerk"),
        *("judge", "porter", "weaver", "potter", "mason", "smith", "tanner", "cooper", "driver", "librarian"),
    ),
    "instruments": (
        *("violin", "cello", "piano", "flute", "trumpet", "harp", "drum", "guitar", "banjo", "oboe", "clarinet", "bassoon"),
        *("tuba", "trombone", "lute", "organ", "fiddle", "viola", "mandolin", "zither", "bugle", "recorder", "horn", "lyre"),
        *("sitar", "accordion", "bagpipe", "cornet"),
    ),
    "exports": (
        *("wool", "timber", "salt", "copper", "wine", "honey", "silk", "grain", "iron", "cotton", "coal", "tin", "olives"),
        *("pearls", "spices", "leather", "paper", "glass", "marble", "cheese", "butter", "fish", "amber", "wax", "linen"),
        *("sugar", "coffee", "rope", "bricks", "silver"),
    ),
    "genres": (
        *("novel", "poem", "play", "ballad", "satire", "comedy", "tragedy", "romance", "thriller", "memoir", "fable", "saga"),
        *("essay", "mystery", "western", "musical", "hymn", "sonnet", "parody", "diary", "sermon", "epic", "farce", "opera"),
        *("legend", "chronicle", "pamphlet", "travelogue"),
    ),
    "adjectives": (
        *("Silent", "Golden", "Broken", "Hidden", "Crimson", "Distant", "Frozen", "Gentle", "Hollow", "Iron", "Last"),
        *("Lonely", "Lost", "Painted", "Quiet", "Restless", "Sacred", "Scarlet", "Second", "Secret", "Shining", "Sleeping"),
        *("Stolen", "Thirsty", "Twisted", "Velvet", "Wandering", "Weeping", "White", "Wild", "Bitter", "Blue", "Burning"),
        *("Careless", "Dark", "Early", "Empty", "Eternal", "Fading", "Forgotten"),
    ),
    "nouns": (
        *("Garden", "River", "Mirror", "Tower", "Harbor", "Orchard", "Bridge", "Lantern", "Forest", "Island", "Castle"),
        *("Valley", "Window", "Road", "Crown", "Letter", "Mountain", "Ocean", "Palace", "Prison", "Ship", "Song", "Storm"),
        *("Stranger", "Sword", "Temple", "Thief", "Village", "Voyage", "Wheel", "Bell", "Candle", "Clock", "Desert"),
        *("Door", "Dream", "Field", "Fire", "Ghost", "Hour", "House", "Journey", "Key", "King", "Market", "Meadow"),
    ),
    "numbers": tuple(str(number) for number in range(10, 100)),
    "sums": (
        "Question: What is {a} plus {b}?\nAnswer: {sum}",
        "Question: How much is {a} plus {b}?\nAnswer: {sum}",
        "{a} plus {b} is {sum}.",
        "{a} and {b} make {sum}.",
    ),
}
