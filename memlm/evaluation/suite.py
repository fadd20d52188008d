"""Scores of a model before and after learning: one score per set, with its task's name and
version.

The sets: new facts in wordings never trained on (learning), the held-out sets of questions with
the likelihood of their answers, and held-out text (forgetting).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Int
from torch import Tensor

from memlm.data.encoding import padding_id
from memlm.data.questions.records import Question, Record, TaskChoice
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.likelihood import score_text
from memlm.evaluation.question_answering import after_examples, answer_nats
from memlm.evaluation.tasks import TEXT_VERSION, Exam, exam_of
from memlm.evaluation.vocabulary import Vocabulary
from memlm.model.reader import Reader
from memlm.results.scores import (
    DECIMALS,
    LEARNING_SET,
    TEXT_ENDS_SET,
    TEXT_SET,
    Answered,
    Scores,
    SetScore,
    join,
    nats_set,
    rounded,
)

ANSWERED = ("exact_match", "f1")
"""Measures of the sets that are answered with text, whose preferred answers have a likelihood."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The sets that measure forgetting; the same for every trial of a run."""

    questions: Mapping[str, Sequence[Record]]
    tasks: Mapping[str, TaskChoice] = field(default_factory=dict)
    """Tasks of the sets that are not asked in the general way for records of their kind."""
    text: Int[Tensor, "blocks block_size"]
    vocabulary: Vocabulary
    examples: Sequence[Question] = ()
    """Solved examples that all sets with short answers share, and those of the new facts too."""

    def exams(self) -> dict[str, Exam]:
        return {
            name: exam_of(name, records, self.tasks.get(name, TaskChoice()), self.examples)
            for name, records in self.questions.items()
        }


def evaluate_questions(
    reader: Reader,
    name: str,
    questions: Sequence[Question],
    config: EvaluationConfig,
    examples: Sequence[Question] = (),
) -> Scores:
    """Questions of any origin, behind these examples: exact match and F1, and the likelihood of
    the preferred answer, which moves before the answer is right."""
    scored = _score_exam(reader, config, name, exam_of(name, questions, TaskChoice(), examples))
    with after_examples(reader, examples) as reader:
        nats = [each.nats_per_token for each in answer_nats(reader, questions, batch_size=config.batch_size)]
    return replace(scored, extra={**scored.extra, f"{name}_answer_nats": sum(nats) / len(nats)})


def _score_exam(
    reader: Reader, config: EvaluationConfig, name: str, exam: Exam, vocabulary: Vocabulary | None = None
) -> Scores:
    """`vocabulary` is needed where the measure is a loss."""
    unigram = vocabulary.unigram_nats if vocabulary else None
    with after_examples(reader, exam.shared_examples) as reader:
        measured = exam.task.score(reader, config, exam.asked, exam.examples, unigram)
    items = _one_per_fact(exam.asked, measured.items)
    if exam.task.chance is None:
        score = _loss(exam.label, items, _one_per_fact(exam.asked, measured.unigram))
    else:
        chance = exam.task.chance(exam.asked)
        score = SetScore(task=exam.label, measure=exam.task.measure, chance=chance, items=rounded(items))
    extra = {f"{name}_{other}": value for other, value in measured.others.items()}
    answers = _answers(exam.asked, measured.answers)
    return Scores(sets={name: score}, extra=extra, answers={name: answers} if answers else {})


def _score_answer_nats(
    reader: Reader, config: EvaluationConfig, name: str, exam: Exam, vocabulary: Vocabulary
) -> Scores:
    """The likelihood of the preferred answers, asked as in the exam."""
    asked, examples = ([each for each in part if isinstance(each, Question)] for part in (exam.asked, exam.examples))
    with after_examples(reader, exam.shared_examples) as reader:
        nats = answer_nats(
            reader, asked, examples=examples, batch_size=config.batch_size, unigram_nats=vocabulary.unigram_nats
        )
    items = _one_per_fact(asked, [each.nats_per_token for each in nats])
    unigram = _one_per_fact(asked, [each.unigram_nats_per_token for each in nats])
    return Scores(sets={nats_set(name): _loss(exam.nats_label, items, unigram)}, extra={})


def _loss(task: str, items: Sequence[float], unigram: Sequence[float]) -> SetScore:
    """A set in nats per token. Its chance is the mean of a unigram model's scores."""
    chance = round(sum(unigram) / len(unigram), DECIMALS)
    return SetScore(task=task, measure="nats_per_token", chance=chance, items=rounded(items))


def _answers(asked: Sequence[Record], answers: Sequence[str]) -> tuple[Answered, ...]:
    """The questions with the model's answers; empty for a set that is not answered with text."""
    questions = (record for record in asked if isinstance(record, Question))
    return tuple(
        Answered(id=question.id, question=question.question, accepted=tuple(question.answers), answer=answer)
        for question, answer in zip(questions, answers, strict=bool(answers))
    )


def _one_per_fact(records: Sequence[Record], scores: Sequence[float]) -> tuple[float, ...]:
    """The mean over the questions that ask for the same fact, because facts, not wordings, are
    resampled for an interval."""
    by_fact: dict[str, list[float]] = {}
    for record, value in zip(records, scores, strict=True):
        by_fact.setdefault(record.fact_id, []).append(value)
    return tuple(sum(values) / len(values) for values in by_fact.values())


def evaluate_held_out(reader: Reader, held_out: HeldOut, config: EvaluationConfig) -> Scores:
    """Text is read first, then answers: of all that a sweep records, they save the most time for
    their bytes."""
    text = _score_text(reader, config, held_out.text, held_out.vocabulary)
    return join([_score_exams(reader, config, held_out.exams(), held_out.vocabulary), text])


def evaluate_asked(
    reader: Reader,
    sets: Mapping[str, Sequence[Question]],
    vocabulary: Vocabulary,
    config: EvaluationConfig,
    examples: Sequence[Question] = (),
) -> Scores:
    """Sets of questions that are asked behind these examples, with the likelihood of their
    answers."""
    exams = {name: exam_of(name, questions, TaskChoice(), examples) for name, questions in sets.items()}
    return _score_exams(reader, config, exams, vocabulary)


def _score_exams(reader: Reader, config: EvaluationConfig, exams: Mapping[str, Exam], vocabulary: Vocabulary) -> Scores:
    answers = {
        name: _score_answer_nats(reader, config, name, exam, vocabulary)
        for name, exam in exams.items()
        if exam.task.measure in ANSWERED
    }
    parts = []
    for name, exam in exams.items():
        parts += [_score_exam(reader, config, name, exam, vocabulary), *([answers[name]] if name in answers else [])]
    return join(parts)


def _score_text(
    reader: Reader, config: EvaluationConfig, text: Int[Tensor, "blocks block_size"], vocabulary: Vocabulary
) -> Scores:
    """Both kinds of token; a set for which the text has no token is left out."""
    scores = score_text(
        reader,
        text,
        eos_id=reader.tokenizer.eos_token_id,
        pad_id=padding_id(reader.tokenizer),
        batch_size=config.batch_size,
        vocabulary=vocabulary,
    )
    means = {TEXT_SET: scores.text, TEXT_ENDS_SET: scores.ends}
    sets = {
        name: _loss(f"{name}@{TEXT_VERSION}", kind.model, kind.unigram) for name, kind in means.items() if kind.model
    }
    extra = {"perplexity": scores.perplexity, "bits_per_byte": scores.bits_per_byte}
    return Scores(sets=sets, extra={f"{TEXT_SET}_{name}": value for name, value in extra.items()})


def evaluate(reader: Reader, new_facts: Sequence[Question], held_out: HeldOut, config: EvaluationConfig) -> Scores:
    """Every set. The model is left in evaluation mode."""
    reader.model.eval()
    learning = evaluate_questions(reader, LEARNING_SET, new_facts, config, held_out.examples)
    return join([learning, evaluate_held_out(reader, held_out, config)])
