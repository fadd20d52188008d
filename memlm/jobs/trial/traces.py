"""Trace of a finetune: stream_metrics.json and .png, the page of coloured tokens, and curves on the
tracking server."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.questions.records import Question
from memlm.evaluation.stream_metrics import CurvePoint
from memlm.jobs.on_ray.console import say
from memlm.jobs.trial.token_pages import PageFact, write_page
from memlm.kinds import METRICS_FILE, METRICS_PICTURE_FILE, TOKEN_PAGE_FILE
from memlm.results.stream_report import draw_stream, format_stream
from memlm.tracking import Run as TrackedRun
from memlm.training.materials import Materials
from memlm.training.observers.stream_trace import StreamTracer
from memlm.training.trial import Trial

NUM_HELD_OUT = 200
"""Questions of each held-out set at each point of a curve."""


def tracer_of(trial: Trial, materials: Materials, tracked: TrackedRun) -> StreamTracer:
    """Log each point of the curve as soon as it is measured."""

    def log(point: CurvePoint) -> None:
        held_out = {f"stream/{name}": value for name, value in point.held_out.items()}
        learned = {"stream/exact_match": point.exact_match, "stream/nats_per_token": point.nats_per_token}
        tracked.log_metrics({**learned, **held_out}, step=point.step)

    sets = materials.held_out.questions
    held_out = {
        name: [record for record in records[:NUM_HELD_OUT] if isinstance(record, Question)]
        for name, records in sets.items()
        if isinstance(records[0], Question)
    }
    return StreamTracer(trial, materials, held_out=held_out, on_point=log)


def write_trace(
    tracer: StreamTracer,
    learned: nn.Module,
    materials: Materials,
    config: Config,
    inputs: dict[str, str],
    tracked: TrackedRun,
) -> None:
    metrics = tracer.metrics()
    with artifacts.trace(config, inputs).write() as draft:
        storage.write_json(str(draft.path / METRICS_FILE), metrics)
        draw_stream(metrics, draft.path / METRICS_PICTURE_FILE)
        shown = _page_facts(tracer, config.analysis.num_page_facts)
        if shown:
            lead = (
                f"How many of the slots that {config.method.label} trained in the last step on a fact each token reads, "
                f"after the stream. Run {config.run_name}, seed {config.seed}."
            )
            write_page(draft.path / TOKEN_PAGE_FILE, learned, materials.tokenizer, shown, lead=lead)
        for name in (METRICS_FILE, METRICS_PICTURE_FILE, TOKEN_PAGE_FILE):
            if (draft.path / name).exists():
                tracked.log_file(draft.path / name)
    tracked.log_metrics(final_metrics(metrics), step=metrics["num_steps"])


def _page_facts(tracer: StreamTracer, count: int) -> list[PageFact]:
    """The first facts for which slots were selected."""
    selected = [(trace, tracer.slots[trace.fact_id]) for trace in tracer.traces()]
    return [
        PageFact(
            tracer.plan[trace.fact_id].fact,
            torch.tensor(slots),
            f"Exact match {trace.start.exact_match:g} at the start, {trace.after.exact_match:g} right after learning, "
            f"{trace.end.exact_match:g} at the end.",
        )
        for trace, slots in selected
        if slots is not None
    ][:count]


def final_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {
        f"stream/{name}/{measure}": metrics[measure][name]
        for measure in ("exact_match", "nats_per_token")
        for name in ("right_after", "backward_transfer", "forgetting")
    }
    found |= {f"stream/paraphrase_gap/{name}": value for name, value in metrics["paraphrase_gap"]["end"].items()}
    if metrics["shared_slots"] is not None:
        found["stream/shared_slots"] = metrics["shared_slots"]["jaccard"]
    return {name: value["mean"] for name, value in found.items() if value is not None}


def report_trace(trace: Artifact) -> None:
    metrics = storage.read_json(str(trace.open() / METRICS_FILE))
    for line in filter(None, format_stream(metrics).splitlines()):
        say(line)
    say(
        f"trace: {storage.address_of_file(trace.uri, METRICS_FILE)}, next to it {METRICS_PICTURE_FILE} and, for methods that select slots, {TOKEN_PAGE_FILE}"
    )
