"""What is read: the corpus, the questions about it and the facts to learn. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class QuestionSetConfig:
    """One file of questions."""

    path: str
    """A path, which may name an environment variable; {world} stands for the generated world."""
    layout: str = "triviaqa"
    """triviaqa, nq_open, entityquestions or gsm8k."""
    num_questions: int = 0
    """The first so many questions; 0 for all."""

    def __post_init__(self) -> None:
        if self.num_questions < 0:
            raise ValueError(
                f"num_questions of {self.path} is {self.num_questions}; it must not be negative (0 takes all)"
            )


@dataclass(frozen=True, kw_only=True)
class FactsConfig(QuestionSetConfig):
    """The facts to learn: questions with answers, and how they are stated."""

    statements: str = ""
    """A file of statements per fact; without one, the questions are put into statements by templates."""


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig(QuestionSetConfig):
    """Questions that only measure forgetting."""

    name: str


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Text in DCLM's layout, and how it becomes blocks of tokens."""

    path: str = "{world}/corpus"
    """A folder of .jsonl.zst, .jsonl.zstd, .jsonl or Parquet shards; it may name an environment variable."""
    validation_path: str = "{world}/validation"
    """Text never trained on; empty to set aside the last shard of the corpus."""
    text_field: str = "text"
    max_shards: int = 0
    """The first so many training shards; 0 for all."""
    tokenizer: str = ""
    """A Hugging Face tokenizer by name or path; empty to train a byte-level BPE on the first shard."""
    vocab_size: int = 1024
    """Of the tokenizer that is trained."""
    tokenizer_documents: int = 5000
    """Documents that it is trained on."""
    block_size: int = 128
    """Tokens of a training sequence."""
    facts: FactsConfig = FactsConfig(path="{world}/new_facts.jsonl", statements="{world}/statements.jsonl")
    held_out: tuple[HeldOutConfig, ...] = (
        HeldOutConfig(name="known_facts", path="{world}/known_facts.jsonl", layout="nq_open"),
        HeldOutConfig(name="arithmetic", path="{world}/arithmetic.jsonl", layout="nq_open"),
    )

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ValueError(
                f"corpus.block_size is {self.block_size}; it must be at least 2, or there is nothing to predict"
            )
        if not self.tokenizer and self.vocab_size < 300:
            raise ValueError(f"corpus.vocab_size is {self.vocab_size}; a byte-level tokenizer needs at least 300")
        if self.max_shards < 0:
            raise ValueError(f"corpus.max_shards is {self.max_shards}; it must not be negative (0 takes all)")
        if self.tokenizer_documents < 1:
            raise ValueError(f"corpus.tokenizer_documents is {self.tokenizer_documents}; it must be at least 1")
        names = [held_out.name for held_out in self.held_out]
        if len(set(names)) < len(names) or {"new_facts", "background_text"} & set(names):
            raise ValueError(
                f"corpus.held_out names {names}; each needs a name of its own, other than new_facts and background_text"
            )


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Which facts are learned, and in what batches."""

    num_facts: int = 100
    """Drawn from the facts by the trial's seed."""
    num_wordings: int = 6
    """Wordings of one fact in a step's batch, drawn from those that the fact has."""
    num_passes: int = 8
    """Times that the stream goes through all facts."""
    max_length: int = 128
    """Tokens of the longest statement allowed."""

    def __post_init__(self) -> None:
        for name in ("num_facts", "num_wordings", "num_passes", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"stream.{name} is {getattr(self, name)}; it must be at least 1")
