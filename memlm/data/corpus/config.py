"""Configuration of the corpus. Imports no torch."""

from dataclasses import dataclass

from memlm.data.config import MixtureConfig, QuestionSetConfig
from memlm.data.paths import SAMPLES
from memlm.identity import execution_only, names_result
from memlm.kinds import BLOCKS_KIND, CORPUS_KIND, TOKENIZER_KIND


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Texts that the model before learning writes by itself, which stand in for text that is not at
    hand."""

    num_texts: int = names_result(256)
    num_validation_texts: int = names_result(64)
    """Texts that are set aside as validation text, in addition."""
    max_tokens: int = names_result(256)
    """Longest text, in tokens; a model ends most of them itself."""
    temperature: float = names_result(1.0)
    """Sampling temperature; at 1 the texts are drawn from the model's own distribution."""
    seed: int = names_result(0)
    questions: QuestionSetConfig | None = names_result(None, when=lambda samples: samples.questions is not None)
    """Questions that the model answers too, behind questions.examples, so that background text has
    the form in which facts are asked; none for free text alone. No fact to learn and no held-out
    set may ask one of them. They are written ten to a text, in addition to num_texts."""
    texts_per_unit: int = names_result(64)
    """Texts that a worker writes at once and stores together. An interrupted run continues from the
    stored units."""

    def __post_init__(self) -> None:
        for name in ("num_texts", "num_validation_texts", "max_tokens", "texts_per_unit"):
            if getattr(self, name) < 1:
                raise ValueError(f"corpus.samples.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.temperature > 0:
            raise ValueError(
                f"corpus.samples.temperature is {self.temperature}; it must be above 0, or all texts would be the same"
            )


def _is_sampled(corpus: "CorpusConfig") -> bool:
    """Whether the sampling options matter. They have no effect if all shards are used."""
    return corpus.fraction != 1


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Text in DCLM's layout, and its conversion to blocks of tokens."""

    path: str = names_result("{world}/corpus", only=(CORPUS_KIND, TOKENIZER_KIND))
    """A folder of shards of JSON lines (plain, .zst, .zstd or .gz) or Parquet, whose path may
    contain environment variables; or s3://bucket/prefix, or
    hf://datasets/owner/name@commit[/folder]. A remote corpus is listed once, and nodes fetch one
    shard at a time."""
    validation_path: str = names_result("{world}/validation", only=(CORPUS_KIND,))
    """Text that is never trained on; empty to set aside the last shard of the corpus."""
    text_field: str = names_result("text")
    fraction: float = names_result(1.0, only=(CORPUS_KIND,), when=_is_sampled)
    """Share of the training shards to use. The choice depends only on sample_seed and the shards'
    names: a larger fraction contains a smaller one."""
    sample_seed: int = names_result(0, only=(CORPUS_KIND,), when=_is_sampled)
    """Seed for the choice of this fraction."""
    max_shards: int = names_result(0, only=(CORPUS_KIND,))
    """Maximum number of training shards, from the beginning of the fraction; 0 for all."""
    max_validation_shards: int = names_result(0, only=(CORPUS_KIND,))
    """Maximum number of shards of validation_path, from the first on; 0 for all."""
    max_malformed_share: float = execution_only(0.001)
    """Share of a shard's lines that may be skipped because they cannot be read; above it the shard
    is quarantined. The corpus's accounting.json counts them by reason; at 0 a single one is too
    many."""
    max_quarantined_share: float = execution_only(0.0)
    """Share of the shards that may be quarantined, that is, left out as a whole: truncated,
    damaged, a decompression bomb, without documents, with more malformed lines than
    max_malformed_share, or fatal to their workers. Above it the corpus is refused.
    accounting.json names them; at 0 the first is an error."""
    max_attempts: int = execution_only(3)
    """Workers that a shard may kill before it is quarantined and not tried again. Deaths of the
    driver do not count."""
    tokenizer: str = names_result("", only=(CORPUS_KIND, TOKENIZER_KIND))
    """A Hugging Face tokenizer by name or path; empty to train a byte-level BPE on the first
    shard."""
    vocab_size: int = names_result(1024, only=(CORPUS_KIND, TOKENIZER_KIND))
    """Vocabulary size of the trained tokenizer."""
    tokenizer_documents: int = names_result(5000, only=(CORPUS_KIND, TOKENIZER_KIND))
    """Number of documents that the tokenizer is trained on."""
    block_size: int = names_result(128, only=(CORPUS_KIND, BLOCKS_KIND))
    """Length of a training sequence in tokens."""
    mixture: MixtureConfig | None = names_result(None, only=(CORPUS_KIND,))
    """Facts to mix into the training text; none to use the text alone."""
    samples: SamplesConfig | None = names_result(
        None, only=(CORPUS_KIND,), when=lambda corpus: corpus.samples is not None
    )
    """Texts to let the model before learning write, where path or validation_path names {samples};
    none if the corpus is at hand."""

    @property
    def reads_samples(self) -> bool:
        return any(SAMPLES in path for path in (self.path, self.validation_path))

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise ValueError(
                f"corpus.block_size is {self.block_size}; it must be at least 2, so that there is a token to predict"
            )
        if not self.tokenizer and self.vocab_size < 300:
            raise ValueError(f"corpus.vocab_size is {self.vocab_size}; a byte-level tokenizer needs at least 300")
        for name in ("max_shards", "max_validation_shards"):
            if getattr(self, name) < 0:
                raise ValueError(f"corpus.{name} is {getattr(self, name)}; it must not be negative (0 uses all)")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"corpus.fraction is {self.fraction}; it must be more than 0 and at most 1")
        for name in ("max_malformed_share", "max_quarantined_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"corpus.{name} is {getattr(self, name)}; it must be at least 0 and less than 1")
        for name in ("tokenizer_documents", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"corpus.{name} is {getattr(self, name)}; it must be at least 1")
