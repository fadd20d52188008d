"""One method learns one stream: base checkpoint -> scores before and after, and a patch that can
be applied and undone."""

from shlex import quote
from typing import Any

import ray

from memlm import storage
from memlm.config import Config
from memlm.jobs.on_ray.alone import alone
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.workers import task_resources
from memlm.jobs.tracked import ui_line
from memlm.kinds import PATCH_KIND
from memlm.results.scores import LEARNING_SET, TrialResult
from memlm.run import command, run_of, tracking_uri, trial_inputs, trial_of
from memlm.stages import require_traceable
from memlm.tracking import Tracker

EXPERIMENT = "memlm finetuning"
SCORES_FILE = "scores.json"
ADVICE = "advice"
"""Why a run learned nothing, in the details of its patch."""
GUIDE = "docs/your-own-facts.md"
REPORT_FILE = "report.html"
PICTURE_FILE = "scores.png"


def run(config: Config) -> str:
    """Learn and write the patch, or find it learned; returns the patch's uri."""
    run = run_of(config)
    require_ready(config)
    require_traceable(config)
    inputs = trial_inputs(config, config.method.base)
    trial = trial_of(config)
    key = trial.key(inputs)
    name = f"{config.method.label}-{key}"
    uri, trace = run.learned(name), run.trace(name) if config.trace else ""

    def is_there() -> bool:
        return storage.has_artifact(uri) and (not trace or storage.has_artifact(trace))

    if is_there():
        say(f"finetune: reusing {uri}")
    else:
        Tracker(tracking_uri(config), EXPERIMENT)
        with connect(config), alone(run.learning_lease(name)):
            if not is_there():  # another driver made it meanwhile
                ray.get(
                    ray.remote(_learn).options(**task_resources(config.cluster)).remote(config, key, uri, trace, inputs)
                )
    result = TrialResult.from_json(storage.read_json(str(storage.open_artifact(uri, kind=PATCH_KIND) / SCORES_FILE)))
    for name, score in result.end.items():
        say(f"  {score.task:24} {score.measure:16} {result.start[name].value:.3f} -> {score.value:.3f}")
    if trace:
        from memlm.jobs.trial.traces import say_trace  # draws, for which it imports matplotlib

        say_trace(trace)
    if REPORT_FILE in storage.read_manifest(uri).files:  # those of older versions have none
        files = ", ".join(storage.address_of_file(uri, name) for name in (REPORT_FILE, PICTURE_FILE, SCORES_FILE))
        say(f"report: {files}")
    if line := ui_line(config, "in MLflow"):
        say(line)
    _say_outcome(config, uri, result)
    return uri


def _say_outcome(config: Config, uri: str, result: TrialResult) -> None:
    """What was learned and how to use it, or that nothing was, why, and what to do."""
    start, end = result.start[LEARNING_SET], result.end[LEARNING_SET]
    if end.value > start.value and config.method.moves == "nothing":
        say(
            f"method {config.method.name} writes to no weight: it answers with statements before each question, so there is no patch to put in; "
            f"compare methods with: {command('pareto_sweep.py', config)}"
        )
        return
    if end.value > start.value:
        checkpoint = run_of(config).checkpoint(config.method.base)
        say(
            f"patch: {uri}; put it in with: memlm apply {quote(checkpoint)} {quote(uri)} OUTPUT; compare methods with: {command('pareto_sweep.py', config)}"
        )
        return
    say(
        f"NOTHING WAS LEARNED: {sum(end.items):.3g} of {len(end.items)} new facts are answered right, and {sum(start.items):.3g} were before."
    )
    for reason in storage.read_manifest(uri, PATCH_KIND).details.get(ADVICE, []):
        say(f"  why: {reason}")
    say(f"what a model can learn, and how to give it your own facts: {GUIDE}. The patch, of no use as it is: {uri}")


def _learn(*arguments: Any) -> None:
    from memlm.jobs.trial.learning import learn  # imports torch and transformers, which only a worker should wait for

    learn(*arguments)


def trial_tags(config: Config, inputs: dict[str, str]) -> dict[str, str]:
    return {
        "stage": "finetune",
        "recipe": config.recipe,
        "checkpoint": inputs["checkpoint"][:16],
        "data": inputs["corpus"][:16],
    }
