"""What is read: the corpus, the questions about it and the facts to learn. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from memlm.identity import NAMES_RESULT, execution_only, names_result
from memlm.kinds import BLOCKS_KIND, CORPUS_KIND, QUESTIONS_KIND, STATEMENTS_KIND, TOKENIZER_KIND
from memlm.names import require_distinct, require_name

RESERVED_SETS = ("new_facts", "background_text")
"""Sets that every run has."""
RESERVED_SCORES = ("learning", "forgetting", "seconds", "seconds_learning", "steps")
"""What a run logs next to its sets."""
SECONDARY_MEASURES = (
    "f1",
    "acc_norm",
    "final_number",
    "answer_nats",
    "answer_nats_gained",
    "perplexity",
    "bits_per_byte",
)
"""They are logged as SET_MEASURE, which must not be another set's name."""


@dataclass(frozen=True, kw_only=True)
class FieldsConfig:
    """Where the layout `fields` finds the parts of a record: each a dotted path, such as
    answer.value."""

    id: str = names_result("")
    """Empty to number the records by line. Ids are taken whole; see merge_numbered for questions
    about one fact."""
    question: str = names_result("question")
    """The question; where `choices` is set, the text that they continue."""
    answers: tuple[str, ...] = names_result(("answer",))
    """Fields that hold an answer or a list of them; the preferred answer first."""
    answer_separator: str = names_result("")
    """What stands between answers that are written as one text; 'json' for a JSON list as text;
    empty if a text is one answer."""
    relation: str = names_result("")
    solution: str = names_result("")
    choices: str = names_result("")
    """A list of choices: the set is multiple choice, and `answers` is not read."""
    gold: str = names_result("gold")
    """The place of the right choice, from 0."""


QUESTION_LAYOUTS = ("triviaqa", "nq_open", "entityquestions", "gsm8k", "hellaswag", "simpleqa", "fields")
"""The public sets' own, and one for any other table."""
QUESTION_TASKS = ("questions", "multiple_choice", *(layout for layout in QUESTION_LAYOUTS if layout != "fields"))
"""How a held-out set may be asked."""


def _merges_numbered(source: "QuestionSetConfig") -> bool:
    """False names nothing: artifacts from before there was a choice are found by it."""
    return source.merge_numbered


@dataclass(frozen=True, kw_only=True)
class QuestionSetConfig:
    """One set of questions, and which of them are taken."""

    path: str = field(metadata=NAMES_RESULT)
    """A path, which may name an environment variable; {world} stands for the generated world. Or
    s3://bucket/key, or a data set on the hub as hf://owner/name[/config][:split]@commit. Files
    are JSON lines or a JSON list (plain, .zst or .gz), .csv or .parquet."""
    layout: str = names_result("triviaqa")
    """triviaqa, nq_open, entityquestions, gsm8k, hellaswag, simpleqa, or fields for any other."""
    fields: FieldsConfig = names_result(FieldsConfig())
    """Of the layout `fields`."""
    merge_numbered: bool = names_result(False, when=_merges_numbered)
    """Whether ids that differ in nothing but a number after '#' (`capital#0`, `capital#1`) are
    wordings of one question, whose score is their mean. The generated world's files are made so;
    a file of statements says by its own ids which questions ask for a fact."""
    max_malformed_share: float = names_result(0.0)
    """Share of records that may be left out because they do not fit the layout; at 0 the first
    is an error."""
    max_answer_words: int = names_result(100)
    """A record with a longer answer does not fit."""
    num_questions: int = names_result(0)
    """How many questions; 0 for all."""
    skip: int = names_result(0)
    """How many of the first ones are left out: two sets from one file need not share a question."""
    shuffle: bool = names_result(False)
    """Take them in a random order, always the same, instead of the file's: for a file that is
    sorted. Two sets from one file agree on it."""

    def __post_init__(self) -> None:
        if self.num_questions < 0:
            raise ValueError(
                f"num_questions of {self.path} is {self.num_questions}; it must not be negative (0 takes all)"
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
    """A file of statements per fact; without one, the questions are put into statements by
    templates."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(QuestionSetConfig):
    """Facts mixed into the training text, each stated in several wordings and asked in several:
    what there is to know, and a way from statement to question."""

    exposures: int = names_result(30)
    """Documents per fact; each is one statement, or one question with its answer."""
    question_share: float = names_result(0.3)
    """Share of them that are questions."""
    num_reserved: int = names_result(0)
    """How many of the first facts are never asked in the file's own wording, so that a held-out
    set of them asks in words not trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_reserved < 0:
            raise ValueError(f"corpus.mixture.num_reserved is {self.num_reserved}; it must not be negative")
        if self.exposures < 1:
            raise ValueError(f"corpus.mixture.exposures is {self.exposures}; it must be at least 1")
        if not 0 <= self.question_share <= 1:
            raise ValueError(f"corpus.mixture.question_share is {self.question_share}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig(QuestionSetConfig):
    """Questions that only measure forgetting."""

    name: str = field(metadata=NAMES_RESULT)
    task: str = names_result("")
    """How they are asked and scored: triviaqa, nq_open, entityquestions, simpleqa, gsm8k,
    hellaswag; questions or multiple_choice for any other. Empty for the layout's own."""
    num_examples: int = names_result(-1)
    """Solved questions shown before each that is asked: the last of the set, which are then not
    asked; -1 for the task's own number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_name("questions.held_out: name", self.name)
        if self.num_examples < -1:
            raise ValueError(
                f"num_examples of {self.name} is {self.num_examples}; it must not be negative (-1 for the task's own number)"
            )


def _is_sampled(corpus: "CorpusConfig") -> bool:
    """How a sample would be drawn has no effect where all shards are taken."""
    return corpus.fraction != 1


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Text in DCLM's layout, and how it becomes blocks of tokens."""

    path: str = names_result("{world}/corpus", only=(CORPUS_KIND, TOKENIZER_KIND))
    """A folder of shards of JSON lines (plain, .zst, .zstd or .gz) or Parquet, which may name an
    environment variable; or s3://bucket/prefix, or hf://datasets/owner/name@commit[/folder].
    What lies in a store is listed once, and a shard at a time is brought to each node."""
    validation_path: str = names_result("{world}/validation", only=(CORPUS_KIND,))
    """Text never trained on; empty to set aside the last shard of the corpus."""
    text_field: str = names_result("text")
    fraction: float = names_result(1.0, only=(CORPUS_KIND,), when=_is_sampled)
    """Of the training shards. Which ones is a pure function of sample_seed and their names: a
    larger fraction contains a smaller one."""
    sample_seed: int = names_result(0, only=(CORPUS_KIND,), when=_is_sampled)
    """Of the fraction."""
    max_shards: int = names_result(0, only=(CORPUS_KIND,))
    """At most how many training shards, from the first on, of the fraction; 0 for all."""
    max_validation_shards: int = names_result(0, only=(CORPUS_KIND,))
    """At most how many shards of validation_path, from the first on; 0 for all."""
    max_malformed_share: float = execution_only(0.001)
    """Of a shard's lines, may be left out because they cannot be read; beyond it the shard is
    one to quarantine. Each is counted by its reason in the corpus's accounting.json; at 0 the
    first is one too many."""
    max_quarantined_share: float = execution_only(0.0)
    """Of the shards, may be left out whole: cut off, damaged, a decompression bomb, without
    documents, with more malformed lines than max_malformed_share, or one whose workers died;
    beyond it the corpus is refused. Each is named in accounting.json; at 0 the first is an
    error."""
    max_attempts: int = execution_only(3)
    """Workers that a shard may kill before it is put in quarantine and not tried again. A driver
    that dies counts for none."""
    tokenizer: str = names_result("", only=(CORPUS_KIND, TOKENIZER_KIND))
    """A Hugging Face tokenizer by name or path; empty to train a byte-level BPE on the first
    shard."""
    vocab_size: int = names_result(1024, only=(CORPUS_KIND, TOKENIZER_KIND))
    """Of the tokenizer that is trained."""
    tokenizer_documents: int = names_result(5000, only=(CORPUS_KIND, TOKENIZER_KIND))
    """Documents that it is trained on."""
    block_size: int = names_result(128, only=(CORPUS_KIND, BLOCKS_KIND))
    """Tokens of a training sequence."""
    mixture: MixtureConfig | None = names_result(None, only=(CORPUS_KIND,))
    """Facts that the training text is mixed with; none for the text alone."""

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ValueError(
                f"corpus.block_size is {self.block_size}; it must be at least 2, or there is nothing to predict"
            )
        if not self.tokenizer and self.vocab_size < 300:
            raise ValueError(f"corpus.vocab_size is {self.vocab_size}; a byte-level tokenizer needs at least 300")
        for name in ("max_shards", "max_validation_shards"):
            if getattr(self, name) < 0:
                raise ValueError(f"corpus.{name} is {getattr(self, name)}; it must not be negative (0 takes all)")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"corpus.fraction is {self.fraction}; it must be more than 0 and at most 1")
        for name in ("max_malformed_share", "max_quarantined_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"corpus.{name} is {getattr(self, name)}; it must be at least 0 and less than 1")
        for name in ("tokenizer_documents", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"corpus.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DocumentsConfig:
    """Documents to learn, chunk by chunk, each in many augmentations (Lin et al. 2025, section
    5.2)."""

    path: str = field(metadata=NAMES_RESULT)
    """A file (.jsonl, .jsonl.zst, .json, .csv, .parquet), s3:// object or hub data set with id,
    title and text; it may name an environment variable."""
    questions: str = field(metadata=NAMES_RESULT)
    """Questions about them, with id, question, answer and doc_ids, from the same kinds of place."""
    num_documents: int = names_result(0)
    """At most how many, from the first on; 0 for all."""
    answered_only: bool = names_result(True)
    """Leave out questions whose answer stands in none of their documents."""
    answering_chunks_only: bool = names_result(False)
    """Learn only the chunks that answer a question, of documents that are too long to learn
    whole on a small machine."""
    chunk_tokens: int = names_result(256)
    """Of the longest chunk. A paragraph that is longer is cut at its sentences."""
    min_chunk_tokens: int = names_result(32)
    """A paragraph that is shorter, most often a heading, stands with the next one."""
    augmenter: Literal["rules", "general", "trivia"] = names_result("rules")
    """How a chunk is said in other ways: by rules, with no model; or by the writer with Active
    Reading, whose strategies are asked for in general or for a quiz on facts."""
    num_augmentations: int = names_result(64)
    """Different texts per chunk."""
    max_augmentation_tokens: int = names_result(511)
    """Of the longest text; one that is longer ends with the last sentence that fits. A stream
    needs one token more, for the end."""
    max_rounds: int = names_result(3)
    """Times that the writer is asked for the texts that a chunk is short of."""
    max_failed_share: float = names_result(0.05)
    """Of the chunks, may be left out because the writer gave no text for them; beyond it the
    documents are refused."""
    seed: int = names_result(0)
    """Of the rules."""

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
        if not self.min_chunk_tokens <= self.chunk_tokens <= self.max_augmentation_tokens:
            raise ValueError(
                f"questions.documents has min_chunk_tokens {self.min_chunk_tokens}, chunk_tokens {self.chunk_tokens} and "
                f"max_augmentation_tokens {self.max_augmentation_tokens}; each must be at most the next, so that a whole chunk fits into a text"
            )


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """What is learned and what is asked. No checkpoint depends on it."""

    facts: FactsConfig = names_result(
        FactsConfig(path="{world}/new_facts.jsonl", statements="{world}/statements.jsonl")
    )
    held_out: tuple[HeldOutConfig, ...] = names_result(
        (
            HeldOutConfig(name="known_facts", path="{world}/known_facts.jsonl", layout="nq_open", task="questions"),
            HeldOutConfig(name="arithmetic", path="{world}/arithmetic.jsonl", layout="nq_open", task="questions"),
        )
    )
    documents: DocumentsConfig | None = names_result(None)
    """Documents to learn instead of the facts; none for the facts."""
    remove_overlap: bool = names_result(False)
    """Leave out facts whose question a held-out set or the training mixture asks too. Overlaps
    are reported in any case."""

    def __post_init__(self) -> None:
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
    """How write_statements has a model state the facts of questions.facts."""

    num_wordings: int = names_result(8)
    """Statements per fact."""
    max_rounds: int = names_result(3)
    """Times that the model is asked for the wordings that did not pass: those without the
    answer, with the question, or said before."""
    max_failed_share: float = names_result(0.05, only=(STATEMENTS_KIND,))
    """Of the facts, may stay with fewer wordings than asked for; beyond it the file is refused."""

    def __post_init__(self) -> None:
        for name in ("num_wordings", "max_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"wordings.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"wordings.max_failed_share is {self.max_failed_share}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Which facts are learned, and in what batches."""

    num_facts: int = names_result(100)
    """Drawn from the facts by the trial's seed."""
    num_wordings: int = names_result(6)
    """Wordings of one fact in a step's batch, drawn from those that the fact has."""
    num_passes: int = names_result(8)
    """Times that the stream goes through all facts."""
    max_length: int = execution_only(128)
    """Tokens of the longest statement allowed."""

    def __post_init__(self) -> None:
        for name in ("num_facts", "num_wordings", "num_passes", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"stream.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DocumentStreamConfig:
    """Which documents are learned, and in what batches: for a run with questions.documents."""

    num_documents: int = names_result(0)
    """Drawn from the documents by the trial's seed; 0 for all."""
    num_augmentations: int = names_result(64)
    """Texts on one chunk in a step's batch, drawn from those that the chunk has."""
    num_passes: int = names_result(1)
    """Times that the stream goes through all chunks."""
    max_length: int = execution_only(512)
    """Tokens of the longest text allowed, with its end."""

    def __post_init__(self) -> None:
        for name in ("num_augmentations", "num_passes", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"stream.{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_documents < 0:
            raise ValueError(f"stream.num_documents is {self.num_documents}; it must not be negative (0 takes all)")

    @property
    def num_wordings(self) -> int:
        """As a stream of facts calls what fills a batch."""
        return self.num_augmentations


StreamChoice = StreamConfig | DocumentStreamConfig
