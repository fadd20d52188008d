"""Background text that the model before learning writes, in DCLM's layout, which `prepare_corpus`
packs like any text.

samples/train/       shards to count on: free text, then questions with their answers
samples/validation/  a shard that is never counted
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.corpus.shards import write_shard
from memlm.data.questions.records import Question
from memlm.data.writers.interface import Writer
from memlm.data.writers.samples import sample_texts
from memlm.evaluation.question_answering import prompts_of
from memlm.evaluation.tasks import default_task
from memlm.identity import identity
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.preparing.base_model import read_base
from memlm.jobs.preparing.known_questions import Asking
from memlm.jobs.preparing.questions import examples_of, questions_of
from memlm.jobs.preparing.writing_units import write_in_units
from memlm.run import run_of

SHARD = "shard_{:08d}_processed.jsonl.zst"
TEXTS_PER_SHARD = 256
QUESTIONS_PER_TEXT = 10


def run(config: Config, base: Artifact) -> Artifact:
    """Let the model in that checkpoint write the texts, or reuse them."""
    samples = artifacts.samples(config, base=base.digest)
    if samples.is_made():
        say(f"samples: reusing {samples.uri}")
        return samples
    with alone(run_of(config).samples_lease), connect(config):
        if not samples.is_made():  # unless another driver made them meanwhile
            _write_all(config, base, samples)
    return samples


def _write_all(config: Config, base: Artifact, samples: Artifact) -> None:
    """Write the missing units and the artifact."""
    settings = config.corpus.samples
    assert settings is not None, "checked by artifacts.samples"
    number = settings.num_texts + settings.num_validation_texts
    asked = _asked(config)  # errors in the file are found before any work
    say(f"samples: {number} texts of at most {settings.max_tokens} tokens, written by {base.uri}")
    records = write_in_units(
        config,
        _Sampling(config=config, uri=base.uri, digest=base.digest),
        [{"number": index} for index in range(number)],
        folder=samples.units,
        wanted={**samples.identity, "inputs": dict(samples.inputs)},
        revision=None,
        size=settings.texts_per_unit,
    )
    train, validation = records[: settings.num_texts], records[settings.num_texts :]
    train += _answered(config, base, samples, asked)
    with samples.write() as draft:
        for first in range(0, len(train), TEXTS_PER_SHARD):
            shard = SHARD.format(first // TEXTS_PER_SHARD)
            write_shard(str(draft.path / "train" / shard), train[first : first + TEXTS_PER_SHARD])
        write_shard(str(draft.path / "validation" / SHARD.format(0)), validation)
        draft.details.update(num_texts=number, num_answers=len(asked))
        draft.details["num_empty"] = sum(not record["text"] for record in records)
    storage.delete_made(samples.units)


def _asked(config: Config) -> list[Question]:
    assert config.corpus.samples is not None
    source = config.corpus.samples.questions
    return questions_of(config, source, "corpus.samples.questions.path", None) if source else []


def _answered(config: Config, base: Artifact, samples: Artifact, asked: Sequence[Question]) -> list[dict[str, Any]]:
    """Texts of questions with the model's answers, in the form in which facts are asked."""
    source = config.corpus.samples.questions if config.corpus.samples else None
    if source is None:
        return []
    examples = examples_of(config, None)
    say(f"samples: {len(asked)} questions of {source.path}, answered by {base.uri} behind {len(examples)} examples")
    lines = write_in_units(
        config,
        Asking(
            config=config,
            uri=base.uri,
            digest=base.digest,
            task=default_task(asked, source.layout),
            examples=tuple(examples),
        ),
        [asdict(question) for question in asked],
        folder=storage.join(samples.units, "answers"),
        wanted={**samples.identity, "inputs": dict(samples.inputs), "known": identity(config.questions.known)},
        revision=None,
        size=config.questions.known.questions_per_unit,
        doing="asking",
    )
    pairs = [f"{prompt} {line['answer'].strip()}" for prompt, line in zip(prompts_of(asked), lines, strict=True)]
    return [
        {"text": "\n\n".join(pairs[first : first + QUESTIONS_PER_TEXT])}
        for first in range(0, len(pairs), QUESTIONS_PER_TEXT)
    ]


@dataclass(frozen=True, kw_only=True)
class _Sampling:
    """A worker's part: the texts of one unit."""

    config: Config
    uri: str
    digest: str

    def __call__(self, writer: Writer | None, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        settings, base = self.config.corpus.samples, read_base(self.config, self.uri, self.digest)
        assert settings is not None
        numbers = [int(item["number"]) for item in items]
        texts = sample_texts(base.model, base.tokenizer, numbers, settings)  # type: ignore[arg-type]
        return [{"text": text} for text in texts]
