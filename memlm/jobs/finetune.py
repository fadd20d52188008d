"""Finetuning of a checkpoint on one stream by one method: scores before and after, and a patch that
can be applied and undone."""

from shlex import quote
from typing import Any

import ray

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.workers import task_resources
from memlm.jobs.tracked import FINETUNING, ui_line
from memlm.jobs.trial.outcome import outcome_lines
from memlm.kinds import ADVICE, PREFIX_FILE, REPORT_FILE, SCORES_FILE, SCORES_PICTURE_FILE
from memlm.results.scores import LEARNING_SET, TrialResult
from memlm.run import command, run_of, tracking_uri
from memlm.stages import require_finetunable
from memlm.tracking import Tracker

GUIDE = "docs/your-own-facts.md"


def run(config: Config) -> str:
    """Learn the stream and write the patch, or reuse it; return the patch's uri."""
    require_ready(config)
    require_finetunable(config)
    inputs = artifacts.trial_inputs(config, config.method.base, [config.method])
    learned, trace = artifacts.learned(config, inputs), artifacts.trace(config, inputs)
    uri = learned.uri

    def is_there() -> bool:
        return learned.is_there() and (not config.trace or trace.is_there())

    if is_there():
        say(f"finetune: reusing {uri}")
    else:
        Tracker(tracking_uri(config), FINETUNING)
        with connect(config), alone(run_of(config).learning_lease(artifacts.learned_name(config, inputs))):
            if not is_there():  # unless another driver made it meanwhile
                ray.get(ray.remote(_learn).options(**task_resources(config.cluster)).remote(config, inputs))
    result = TrialResult.from_json(storage.read_json(str(learned.open() / SCORES_FILE)))
    for name, score in result.end.items():
        say(f"  {score.task:24} {score.measure:16} {result.start[name].value:.3f} -> {score.value:.3f}")
    for line in outcome_lines(result):
        say(line)
    if config.trace:
        from memlm.jobs.trial.traces import report_trace  # imports matplotlib

        report_trace(trace)
    if REPORT_FILE in learned.manifest().files:  # patches of older versions have no report
        files = ", ".join(
            storage.address_of_file(uri, name) for name in (REPORT_FILE, SCORES_PICTURE_FILE, SCORES_FILE)
        )
        say(f"report: {files}")
    if line := ui_line(config, "in MLflow"):
        say(line)
    _report_outcome(config, learned, result)
    return uri


def _report_outcome(config: Config, learned: Artifact, result: TrialResult) -> None:
    """Say what was learned and how to use it; if nothing was, say why and what to do."""
    start, end = result.start[LEARNING_SET], result.end[LEARNING_SET]
    if end.value > start.value and config.method.moves == "nothing":
        say(
            f"method {config.method.name} changes no weight: it puts statements before each question, so there is no patch to apply; "
            f"compare methods with: {command('pareto_sweep.py', config)}"
        )
        return
    if end.value > start.value and PREFIX_FILE in learned.manifest().files:
        say(
            f"method {config.method.label} changes no weight: it learned keys and values that stand before every text, in "
            f"{storage.address_of_file(learned.uri, PREFIX_FILE)}; compare methods with: {command('pareto_sweep.py', config)}"
        )
        return
    if end.value > start.value:
        checkpoint = artifacts.checkpoint(config, config.method.base).uri
        say(
            f"patch: {learned.uri}; apply it with: memlm apply {quote(checkpoint)} {quote(learned.uri)} OUTPUT; compare methods with: {command('pareto_sweep.py', config)}"
        )
        return
    say(
        f"NOTHING WAS LEARNED: {sum(end.items):.3g} of {len(end.items)} new facts are answered correctly, and {sum(start.items):.3g} were before."
    )
    for reason in learned.manifest().details.get(ADVICE, []):
        say(f"  why: {reason}")
    say(
        f"how to teach a model your own facts, and what it can learn: {GUIDE}. The patch, which is of no use: {learned.uri}"
    )


def _learn(*arguments: Any) -> None:
    from memlm.jobs.trial.learning import learn  # imports torch and transformers, slow, so only in a worker

    learn(*arguments)
