"""Analysis of the slots of single facts on the memory checkpoint: how many all wordings share, how
few suffice to learn the fact, and which tokens read them."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import ray

from memlm import artifacts, storage
from memlm.config import Config
from memlm.identity import settings
from memlm.jobs.on_ray.checks import require_ready
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import say
from memlm.jobs.on_ray.workers import task_resources
from memlm.kinds import TOKEN_PAGE_FILE
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.run import run_of
from memlm.stages import require_slots_to_analyze

SLOTS_FILE = "slots.json"


def run(config: Config) -> str:
    """Write slots.json and tokens.html into the run's folder; return the uri of slots.json."""
    run = run_of(config)
    require_ready(config)
    method = require_slots_to_analyze(config)
    inputs = artifacts.trial_inputs(config, "memory")
    with connect(config):
        task = ray.remote(_analyze).options(**task_resources(config.cluster))
        facts, page = ray.get(task.remote(config, method, inputs))
    output = storage.join(run.uri, SLOTS_FILE)
    asked = {"method": settings(method), "stream": settings(config.stream), "analysis": settings(config.analysis)}
    report = {"inputs": inputs, "seed": config.seed, **asked, "summary": summary(facts, config), "facts": facts}
    storage.write_json(output, report)
    if page:
        storage.write_bytes(storage.join(run.uri, TOKEN_PAGE_FILE), page)
    for line in format_summary(report["summary"]):
        say(line)
    say(f"slots: {output}")
    return output


def _analyze(config: Config, method: SparseMemoryConfig, inputs: dict[str, str]) -> tuple[list[dict[str, Any]], bytes]:
    from memlm.jobs.trial.fact_slots import (
        analyze,  # imports torch and transformers, slow, so only in a worker
    )

    return analyze(config, method, inputs)


def summary(facts: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
    """Medians and ranges over facts, and for each number of slots the share of unknown facts that
    it was enough to learn."""
    names = [name for name in facts[0] if name.startswith("num_")]
    spread = {
        name: {"median": median(values), "from": min(values), "to": max(values)}
        for name in names
        if (values := [fact[name] for fact in facts])
    }
    new = [fact for fact in facts if fact["learned_with"] != 0]
    sufficed = {
        str(count): sum(fact["learned_with"] is not None and fact["learned_with"] <= count for fact in new) / len(new)
        for count in sorted(config.analysis.slot_counts)
        if new
    }
    return {
        "num_facts": len(facts),
        "num_known_before": len(facts) - len(new),
        "spread": spread,
        "learned_within": sufficed,
    }


def format_summary(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"  {'of ' + str(summary['num_facts']) + ' facts':34} median   from     to"]
    for name, spread in summary["spread"].items():
        label = name.removeprefix("num_").replace("_", " ") + " slots"
        lines.append(f"  {label:34} {spread['median']:6g} {spread['from']:6g} {spread['to']:6g}")
    new = summary["num_facts"] - summary["num_known_before"]
    lines.append(f"  learned, of {new} facts that were not known before")
    return lines + [
        f"  {'with ' + count + ' slots':34} {share:6.0%}" for count, share in summary["learned_within"].items()
    ]
