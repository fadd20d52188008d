"""Configuration of the questions about a corpus and the facts to learn. Imports no
torch."""

from dataclasses import dataclass, field
from typing import Literal

from memlm.identity import NAMES_RESULT, execution_only, names_result
from memlm.kinds import QUESTIONS_KIND, STATEMENTS_KIND
from memlm.names import require_distinct, require_name

RESERVED_SETS = ("new_facts", "text", "text_ends", "old_answers", "same_subject", "same_relation")
"""Names of sets that every run has, or every run of updates."""
RESERVED_SCORES = ("learning", "forgetting", "seconds", "seconds_learning", "steps")
"""Names of other metrics that a run logs."""
SECONDARY_MEASURES = (
    "f1",
    "acc_norm",
    "final_number",
    "nats",
    "answer_nats",
    "answer_nats_gained",
    "perplexity",
    "bits_per_byte",
    "seen",
    *(f"{when}{moment}" for when in ("", "earlier_") for moment in ("start", "right_after", "end")),
    *(f"{when}{moment}_f1" for when in ("", "earlier_") for moment in ("start", "right_after", "end")),
)
"""Each is logged as SET_MEASURE, so no other set may have that name."""


@dataclass(frozen=True, kw_only=True)
class FieldsConfig:
    """Fields in which the layout `fields` finds the parts of a record: each a dotted path, such as
    answer.value."""

    id: str = names_result("")
    """Field of the id; empty to number the records by line. Ids are not split; see merge_numbered
    for questions about one fact."""
    question: str = names_result("question")
    """Field of the question; with `choices`, the text that the choices continue."""
    answers: tuple[str, ...] = names_result(("answer",))
    """Fields that hold an answer or a list of answers, with the preferred answer first."""
    answer_separator: str = names_result("")
    """Separator of answers that are written as one text; 'json' for a JSON list as text; empty if
    the text is a single answer."""
    relation: str = names_result("")
    solution: str = names_result("")
    choices: str = names_result("")
    """Field of a list of choices. With it, the set is multiple choice and `answers` is ignored."""
    gold: str = names_result("gold")
    """Field of the index of the right choice, from 0."""


QUESTION_LAYOUTS = ("triviaqa", "nq_open", "entityquestions", "gsm8k", "hellaswag", "simpleqa", "fields")
"""Layouts of the public sets, and `fields` for any other table."""
QUESTION_TASKS = (
    "questions",
    "multiple_choice",
    "chat",
    *(layout for layout in QUESTION_LAYOUTS if layout != "fields"),
)
"""Ways of asking a held-out set."""


def _merges_numbered(source: "QuestionSetConfig") -> bool:
    """False is not part of the identity, so that artifacts from before this option are reused."""
    return source.merge_numbered


@dataclass(frozen=True, kw_only=True)
class QuestionSetConfig:
    """A set of questions, and which of them to use."""

    path: str = field(metadata=NAMES_RESULT)
    """A path, which may contain environment variables; {world} stands for the generated world, and
    {shipped} for the questions that come with memlm (entityquestions.jsonl.zst). Or
    s3://bucket/key, or a data set on the hub as hf://owner/name[/config][:split]@commit. Files are
    JSON lines or a JSON list (plain, .zst or .gz), .csv or .parquet."""
    layout: str = names_result("triviaqa")
    """triviaqa, nq_open, entityquestions, gsm8k, hellaswag, simpleqa, or fields for any other."""
    fields: FieldsConfig = names_result(FieldsConfig())
    """Field names for the layout `fields`."""
    merge_numbered: bool = names_result(False, when=_merges_numbered)
    """Whether ids that differ only in a number after '#' (`capital#0`, `capital#1`) are wordings
    of one question, scored by their mean. The generated world's files use such ids; in a file of
    statements, equal ids link questions to facts."""
    max_malformed_share: float = names_result(0.0)
    """Share of records that may be skipped because they do not fit the layout; at 0 the first such
    record is an error."""
    max_answer_words: int = names_result(100)
    """A record with a longer answer does not fit the layout."""
    num_questions: int = names_result(0)
    """Number of questions to use; 0 for all."""
    skip: int = names_result(0)
    """Number of questions to skip at the beginning, so that two sets from one file can be
    disjoint."""
    shuffle: bool = names_result(False)
    """Use the questions in a random but fixed order instead of the file's, for example if the file
    is sorted. The order is the same for every set from the file."""
    base_answers: Literal["any", "right", "wrong"] = names_result(
        "any", when=lambda source: source.base_answers != "any"
    )
    """Use only questions that the model before learning answers right, which it knows, or wrong. It
    is asked once, behind questions.examples; skip and num_questions apply to what is left."""

    def __post_init__(self) -> None:
        if self.num_questions < 0:
            raise ValueError(
                f"num_questions of {self.path} is {self.num_questions}; it must not be negative (0 uses all)"
            )
        if self.skip < 0:
            raise ValueError(f"skip of {self.path} is {self.skip}; it must not be negative")
        if not 0 <= self.max_malformed_share < 1:
            raise ValueError(
                f"max_malformed_share of {self.path} is {self.max_malformed_share}; it must be at least 0 and less than 1"
            )
        if self.max_answer_words < 1:
            raise ValueError(f"max_answer_words of {self.path} is {self.max_answer_words}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FactsConfig(QuestionSetConfig):
    """The facts to learn: questions with answers, and how they are stated."""

    statements: str = names_result("", only=(QUESTIONS_KIND,))
    """A file of statements for each fact; without one, templates turn the questions into
    statements."""
    also_asked: bool = names_result(False, only=(QUESTIONS_KIND,), when=lambda facts: facts.also_asked)
    """Whether a fact's wordings are also other questions with the answer, next to statements. The
    question as its set words it is never among them. For facts that templates state."""
    rephrased: bool = names_result(False, only=(QUESTIONS_KIND,), when=lambda facts: facts.rephrased)
    """Whether a fact whose relation has no wordings is stated in those of what it asks for: prices,
    addresses, names, telephone numbers and other qualities. With also_asked, it is also asked in
    their forms, but never in one in which a fact of the file is asked, or else by grammar. For
    facts that templates state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("also_asked", "rephrased"):
            if getattr(self, name) and self.statements:
                raise ValueError(
                    f"questions.facts.{name} is True, and the wordings are those of questions.facts.statements ({self.statements!r}); "
                    "leave one of the two out"
                )


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(QuestionSetConfig):
    """Facts mixed into the training text. Each is stated in several wordings and asked in several,
    so that the model learns both the facts and how statements relate to questions."""

    exposures: int = names_result(30)
    """Documents per fact; each is one statement, or one question with its answer."""
    question_share: float = names_result(0.3)
    """Share of these documents that are questions."""
    num_reserved: int = names_result(0)
    """Number of facts, from the first on, that are never asked in the file's own wording, so that
    a held-out set of them uses unseen wordings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_answers != "any":
            raise ValueError(
                f"corpus.mixture.base_answers is {self.base_answers}, and the mixture is made before there is a model to ask; leave it out"
            )
        if self.num_reserved < 0:
            raise ValueError(f"corpus.mixture.num_reserved is {self.num_reserved}; it must not be negative")
        if self.exposures < 1:
            raise ValueError(f"corpus.mixture.exposures is {self.exposures}; it must be at least 1")
        if not 0 <= self.question_share <= 1:
            raise ValueError(f"corpus.mixture.question_share is {self.question_share}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig(QuestionSetConfig):
    """A set of questions that only measures forgetting."""

    name: str = field(metadata=NAMES_RESULT)
    task: str = names_result("")
    """Way of asking and scoring: triviaqa, nq_open, entityquestions, simpleqa, gsm8k, hellaswag;
    questions or multiple_choice for any other; chat for questions in the form of a chat. Empty for
    the layout's own."""
    num_examples: int = names_result(-1)
    """Solved examples shown before each question, taken from the end of the set and not asked
    themselves; -1 for the task's own number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name("questions.held_out: name", self.name)
        if self.num_examples < -1:
            raise ValueError(
                f"num_examples of {self.name} is {self.num_examples}; it must not be negative (-1 for the task's own number)"
            )


Augmenter = Literal["rules", "sentences", "given", "questions", "general", "trivia"]
WITHOUT_WRITER: tuple[Augmenter, ...] = ("rules", "sentences", "given")
"""Augmenters that ask no language model."""


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig:
    """Documents to learn chunk by chunk, each chunk in many augmentations (Lin et al. 2025,
    section 5.2)."""

    path: str = field(metadata=NAMES_RESULT)
    """A file (.jsonl, .jsonl.zst, .json, .csv, .parquet), s3:// object or hub data set with id,
    title and text, and rewrites if they are to be learned; the path may contain environment
    variables."""
    questions: str = field(metadata=NAMES_RESULT)
    """Questions about them, with id, question, answer and doc_ids, from the same kinds of place; or
    the documents' own file, if each record holds its questions."""
    num_documents: int = names_result(0)
    """Maximum number of documents, from the first on; 0 for all."""
    answered_only: bool = names_result(True)
    """Leave out questions whose answer is in none of their documents."""
    answering_chunks_only: bool = names_result(False)
    """Learn only the chunks that answer a question, for documents that are too long to learn
    completely on a small machine."""
    chunk_tokens: int = names_result(256)
    """Maximum length of a chunk. A longer paragraph is cut between sentences."""
    min_chunk_tokens: int = names_result(32)
    """A shorter paragraph, usually a heading, is joined to the next one."""
    augmenter: Augmenter = names_result("rules")
    """Source of a chunk's augmentations. Without a model: rules, exercises on a whole chunk;
    sentences, each stated alone and asked about; or given, the document's own sentences and the
    lines of its rewrites. By the writer: questions, which it asks about each sentence, next to the
    statements; or Active Reading, prompted for strategies in general or for a trivia quiz."""
    num_augmentations: int = names_result(64)
    """Number of different texts per chunk."""
    max_augmentation_tokens: int = names_result(511)
    """Maximum length of a text; a longer one is cut after the last sentence that fits. The stream
    needs one more token, for the end of text."""
    max_rounds: int = names_result(3)
    """Number of times that the writer is asked for a chunk's missing texts."""
    max_failed_share: float = names_result(0.05)
    """Share of the chunks that may be left out because the writer gave no text for them; above it
    the documents are refused."""
    seed: int = names_result(0)
    """Seed of the rules."""

    @property
    def restates_sentences(self) -> bool:
        """Whether a text states one sentence or asks about it, instead of restating a chunk."""
        return self.augmenter in ("sentences", "questions")

    def __post_init__(self) -> None:
        for name in ("chunk_tokens", "num_augmentations", "max_augmentation_tokens", "max_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"questions.documents.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("num_documents", "min_chunk_tokens", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"questions.documents.{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(
                f"questions.documents.max_failed_share is {self.max_failed_share}; it must lie between 0 and 1"
            )
        longest = self.chunk_tokens if self.augmenter == "given" else self.max_augmentation_tokens
        if not self.min_chunk_tokens <= self.chunk_tokens <= longest:
            raise ValueError(
                f"questions.documents has min_chunk_tokens {self.min_chunk_tokens}, chunk_tokens {self.chunk_tokens} and "
                f"max_augmentation_tokens {self.max_augmentation_tokens}; they must be in ascending order, so that a whole chunk fits into a text"
            )


@dataclass(frozen=True, kw_only=True)
class UpdatesConfig:
    """Known facts of the generated world that get new answers, to learn instead of new facts."""

    num_neighbours: int = names_result(2)
    """Known facts of the same subject per update, and equally many of the same relation, which
    measure what an update changes besides its fact."""

    def __post_init__(self) -> None:
        if self.num_neighbours < 1:
            raise ValueError(f"questions.updates.num_neighbours is {self.num_neighbours}; it must be at least 1")


def _has_updates(questions: "QuestionsConfig") -> bool:
    """None is not part of the identity, so that artifacts from before this option are reused."""
    return questions.updates is not None


@dataclass(frozen=True, kw_only=True)
class KnownConfig:
    """The questions that find out what the model before learning knows, for sets with
    base_answers."""

    num_asked: int = names_result(0)
    """Questions of each source that are asked, in its order; 0 for all. Others are in no set."""
    max_new_tokens: int = names_result(10)
    """Longest answer, in tokens."""
    questions_per_unit: int = names_result(256)
    """Questions that a worker asks and stores together. An interrupted run continues from the
    stored units; the last bits of an answer's likelihood may depend on it."""

    def __post_init__(self) -> None:
        for name, least in (("num_asked", 0), ("max_new_tokens", 1), ("questions_per_unit", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"questions.known.{name} is {getattr(self, name)}; it must be at least {least}")


def _asks_base(questions: "QuestionsConfig") -> bool:
    """Sets of any questions are not asked first, and artifacts from before this option are
    reused."""
    return any(source.base_answers != "any" for source in (questions.facts, *questions.held_out))


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """Facts to learn and questions to ask. No checkpoint depends on them."""

    facts: FactsConfig = names_result(
        FactsConfig(path="{world}/new_facts.jsonl", statements="{world}/statements.jsonl")
    )
    held_out: tuple[HeldOutConfig, ...] = names_result(
        (
            HeldOutConfig(name="known_facts", path="{world}/known_facts.jsonl", layout="nq_open", task="questions"),
            HeldOutConfig(name="arithmetic", path="{world}/arithmetic.jsonl", layout="nq_open", task="questions"),
        )
    )
    examples: QuestionSetConfig | None = names_result(None, when=lambda questions: questions.examples is not None)
    """Solved examples that stand before every question with short answers, of new facts and of
    held-out sets alike, unless a set shows its own. Their keys and values are computed once."""
    known: KnownConfig = names_result(KnownConfig(), when=_asks_base)
    documents: DocumentsConfig | None = names_result(None)
    """Documents to learn instead of the facts; none to learn the facts."""
    updates: UpdatesConfig | None = names_result(None, when=_has_updates)
    """Updates of known facts to learn instead of the facts. Of the settings of `facts`, only
    num_questions, skip and shuffle apply to them."""
    remove_overlap: bool = names_result(False)
    """Leave out facts whose question is also in a held-out set or the training mixture. Overlaps
    are reported in any case."""

    def __post_init__(self) -> None:
        if self.updates is not None and self.documents is not None:
            raise ValueError("questions.updates and questions.documents are both set; a run learns one of them")
        if self.examples is not None and self.examples.base_answers != "any":
            raise ValueError(
                f"questions.examples.base_answers is {self.examples.base_answers}, and the examples are what the model is asked behind; leave it out"
            )
        if self.facts.base_answers != "any" and (self.facts.statements or self.documents or self.updates):
            raise ValueError(
                f"questions.facts.base_answers is {self.facts.base_answers}, which chooses from questions that templates state; leave out "
                "questions.facts.statements, questions.documents and questions.updates, or base_answers"
            )
        names = [held_out.name for held_out in self.held_out]
        require_distinct("questions.held_out", names)
        sets = [*RESERVED_SETS, *names]
        taken = {
            *RESERVED_SETS,
            *RESERVED_SCORES,
            *(f"{name}_{other}" for name in sets for other in SECONDARY_MEASURES),
        }
        for name in names:
            if name.casefold() in {each.casefold() for each in taken}:
                raise ValueError(
                    f"questions.held_out contains {name!r}, the name of another set or score; rename the set"
                )


@dataclass(frozen=True, kw_only=True)
class WordingsConfig:
    """Settings of write_statements, in which a model states the facts of questions.facts."""

    num_wordings: int = names_result(8)
    """Statements per fact."""
    max_rounds: int = names_result(3)
    """Number of times that the model is asked for wordings that were rejected: without the answer,
    with the question in it, or duplicates."""
    max_failed_share: float = names_result(0.05, only=(STATEMENTS_KIND,))
    """Share of the facts that may have fewer wordings than requested; above it the file is
    refused."""

    def __post_init__(self) -> None:
        for name in ("num_wordings", "max_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"wordings.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"wordings.max_failed_share is {self.max_failed_share}; it must lie between 0 and 1")


Part = Literal["all", "evaluation", "tuning"]
"""Which of a run's facts a stream draws from."""


LossOn = Literal["all", "answers", "values"]
"""Which tokens of a wording are learned."""


def _is_part(stream: "StreamChoice") -> bool:
    """Drawing from all facts is not part of the identity, so that results from before the parts are
    reused."""
    return stream.part != "all"


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """The facts to learn, and their batches."""

    num_facts: int = names_result(100)
    """Number of facts, drawn by the trial's seed."""
    part: Part = names_result("all", when=_is_part)
    """Facts to draw from: all, every fourth one (tuning), or the others (evaluation). Methods'
    settings are chosen on one part and compared on the other; see sweep.tuning_seeds."""
    num_wordings: int = names_result(6)
    """Number of wordings of one fact in a step's batch, drawn from the fact's statements."""
    num_passes: int = names_result(8)
    """Number of passes over all facts."""
    loss_on: LossOn = names_result("all", when=lambda stream: stream.loss_on != "all")
    """Tokens that are learned: all of a wording and its end; with `answers`, of a question with its
    answer only the answer and the end, and not how questions begin; with `values`, only those of
    the fact's accepted answers. A statement without an answer is learned whole, in the last case
    but for its end. The same for every method."""
    max_length: int = execution_only(128)
    """Maximum length of a statement in tokens."""

    def __post_init__(self) -> None:
        for name in ("num_facts", "num_wordings", "num_passes", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"stream.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DocumentStreamConfig:
    """The documents to learn, and their batches, for a run with questions.documents."""

    num_documents: int = names_result(0)
    """Number of documents, drawn by the trial's seed; 0 for all."""
    part: Part = names_result("all", when=_is_part)
    """Documents to draw from: all, every fourth one (tuning), or the others (evaluation); see
    sweep.tuning_seeds."""
    num_augmentations: int = names_result(64)
    """Number of texts on one chunk in a step's batch, drawn from the chunk's augmentations."""
    num_passes: int = names_result(1)
    """Number of passes over all chunks."""
    order: Literal["in_passes", "one_by_one"] = names_result(
        "in_passes", when=lambda stream: stream.order != "in_passes"
    )
    """Whether a pass goes through all documents, or all passes over a document come before the next
    one. Learned one by one, each is asked about right after it, too."""
    loss_on: Literal["all", "answers"] = names_result("all", when=lambda stream: stream.loss_on != "all")
    """As for a stream of facts. `values` would learn what the questions about the chunk ask for."""
    max_length: int = execution_only(512)
    """Maximum length of a text in tokens, including the end of text."""

    def __post_init__(self) -> None:
        for name in ("num_augmentations", "num_passes", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"stream.{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_documents < 0:
            raise ValueError(f"stream.num_documents is {self.num_documents}; it must not be negative (0 uses all)")

    @property
    def num_wordings(self) -> int:
        """The batch size under the name that a stream of facts uses."""
        return self.num_augmentations


StreamChoice = StreamConfig | DocumentStreamConfig
