"""Diagnosis of a run that learned nothing: the reasons and their remedies, from its scores, its
facts and its final model."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from torch import nn

from memlm.data.mentions import words_of
from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question, TaskChoice
from memlm.data.stating.statements import wordings_of
from memlm.evaluation.fact_scores import score_facts
from memlm.evaluation.tasks import describe_unanswerable, exam_of
from memlm.model.reader import Reader
from memlm.results.scores import LEARNING_SET, TrialResult
from memlm.training.finetune import ANSWER_GAIN
from memlm.training.materials import Materials
from memlm.training.trial import Trial

NEGLIGIBLE_GAIN = 0.1
"""Nats per token; a smaller gain is no learning."""
COMPLETED_SHARE = 0.2
"""A model that completes more than this share of the trained sentences has learned them."""
MAX_UNTRAINED_SCORE = 0.02
"""Exact match on questions that a model should know; below it, it answers no questions at all."""
OPENING_WORDS = 2


def has_learned(result: TrialResult) -> bool:
    """Whether more new facts are answered right than before."""
    return result.end[LEARNING_SET].value > result.start[LEARNING_SET].value


def reasons_nothing_was_learned(
    trial: Trial, result: TrialResult, learned: nn.Module, materials: Materials, facts: Sequence[Fact]
) -> list[str]:
    """Each reason found, with its remedy. `facts` are the trial's facts; `learned` is
    the model at its end."""
    if min(result.start[LEARNING_SET].items) == 1:
        return [
            "the model answered every one of them before, so there was nothing to learn: give facts that it does not know"
        ]
    reasons = [*_reasons_in_data(trial, materials, facts), *_reasons_in_step(trial, result)]
    asked = [fact for fact in facts if fact.questions]
    stated = {fact.id: fact.statements for fact in asked}
    scores = score_facts(Reader(learned.eval(), materials.tokenizer), asked, trial.evaluation, stated)
    completed = [score.seen_exact_match for score in scores if score.seen_exact_match is not None]
    if completed and fmean(completed) >= COMPLETED_SHARE:
        reasons.append(
            f"the model completes {fmean(completed):.0%} of the sentences that it was trained on, and answers no question about them: it was "
            "pretrained on other kinds of questions. Ask in the form of the held-out questions, or pretrain on questions like yours (corpus.mixture)"
        )
    others = {name: score for name, score in result.start.items() if name != LEARNING_SET}
    known = {name: score.value for name, score in others.items() if not score.is_loss}
    if known and max(known.values()) <= MAX_UNTRAINED_SCORE:
        reasons.append(
            f"the model answers no held-out question either ({', '.join(known)}), so it has not been pretrained for long enough to answer "
            "any: take a recipe that has, such as laptop, or raise pretraining.num_steps"
        )
    return reasons


def _reasons_in_data(trial: Trial, materials: Materials, facts: Sequence[Fact]) -> Iterator[str]:
    """Reasons in the data, which no rate and no number of passes can fix."""
    asked = [question for fact in facts for question in fact.questions]
    exam = exam_of(LEARNING_SET, asked, TaskChoice())
    if message := describe_unanswerable(LEARNING_SET, exam, materials.tokenizer, trial.evaluation):
        yield message
    vague = sum(_is_topic_and_answer(fact) for fact in facts)
    if vague:
        yield (
            f"{vague} of {len(facts)} facts are stated as topic and answer, not as a sentence: give statements of your own "
            "(questions.facts.statements), or have a model write them (pipelines/write_statements.py)"
        )
    sets = materials.held_out.questions.values()
    known = {_opening(each.question) for records in sets for each in records if isinstance(each, Question)}
    new = [question for question in asked if _opening(question.question) not in known]
    if known and len(new) > len(asked) / 2:
        yield (
            f"{len(new)} of {len(asked)} questions begin unlike any that the model is known to answer, such as {new[0].question!r}: a small "
            "model answers only questions of the forms that it was pretrained on"
        )


def _reasons_in_step(trial: Trial, result: TrialResult) -> Iterator[str]:
    """Whether the model moved, and in the right direction."""
    if trial.method.moves == "nothing":
        return
    gained, passes = result.extra[ANSWER_GAIN], trial.stream.num_passes
    rate = getattr(getattr(trial.method, "optimizer", None), "learning_rate", 0.0)
    settings = f"method.optimizer.learning_rate ({rate:g}) or stream.num_passes ({passes})"
    if gained < -NEGLIGIBLE_GAIN:
        yield f"the new answers became less likely, by {-gained:.2f} nats per token: lower method.optimizer.learning_rate ({rate:g})"
    elif gained < NEGLIGIBLE_GAIN:
        yield f"the model hardly moved: the new answers gained {gained:.2f} nats per token. Raise {settings}"
    else:
        yield (
            f"the new answers became more likely, by {gained:.2f} nats per token, but none is the most likely yet. Raise {settings}"
        )


def _is_topic_and_answer(fact: Fact) -> bool:
    """Whether the templates found no rule for the fact."""
    if len(fact.questions) != 1:
        return False
    wordings = wordings_of(fact.questions[0])
    return wordings.kind == "topic" and wordings.statements == fact.statements


def _opening(question: str) -> tuple[str, ...]:
    return tuple(words_of(question)[:OPENING_WORDS])
