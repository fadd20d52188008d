"""Analysis of the slots of single facts on the memory checkpoint: how many all wordings share, how
few suffice to learn the fact, and which tokens read them.

    slots.json                            each fact's slots, and the fewest that suffice
    tokens.html                           the texts of some facts, coloured by trainable reads
    token_reads.json, token_reads.png     trainable reads by kinds of tokens (generated world alone)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import NormalDist, median
from tempfile import TemporaryDirectory
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
from memlm.methods.config import SlotMethodConfig
from memlm.results.token_reads.statistics import ReadText, summarize
from memlm.run import run_of
from memlm.stages import require_slots_to_analyze

SLOTS_FILE = "slots.json"
READS_FILE, READS_PICTURE_FILE = "token_reads.json", "token_reads.png"
NUM_PICTURED = 6
"""Facts in the picture, each with a statement and a question."""


def run(config: Config) -> str:
    """Write the files into the run's folder; return the uri of slots.json."""
    run = run_of(config)
    require_ready(config)
    method = require_slots_to_analyze(config)
    inputs = artifacts.trial_inputs(config, "memory", [method])
    seeds = [replace(config, seed=config.seed + number) for number in range(config.analysis.num_seeds)]
    with connect(config):
        task, reads = (ray.remote(each).options(**task_resources(config.cluster)) for each in (_analyze, _read_tokens))
        analyses = ray.get([task.remote(one, method, inputs) for one in seeds])
        read = [reads.remote(one, method, inputs) for one in seeds] if config.world is not None else []
        texts = [text for found in ray.get(read) for text in found]
    facts, page = [fact for found, _ in analyses for fact in found], analyses[0][1]
    output = storage.join(run.uri, SLOTS_FILE)
    report = {**_provenance(config, method, inputs), "summary": summary(facts, config), "facts": facts}
    storage.write_json(output, report)
    if page:
        storage.write_bytes(storage.join(run.uri, TOKEN_PAGE_FILE), page)
    for line in format_summary(report["summary"]):
        say(line)
    if texts:
        _report_reads(texts, config, _provenance(config, method, inputs))
    say(f"slots: {output}")
    return output


def _provenance(config: Config, method: SlotMethodConfig, inputs: dict[str, str]) -> dict[str, Any]:
    return {
        "inputs": inputs,
        "seeds": [config.seed + number for number in range(config.analysis.num_seeds)],
        "method": settings(method),
        "stream": settings(config.stream),
        "analysis": settings(config.analysis),
    }


def _analyze(*arguments: Any) -> tuple[list[dict[str, Any]], bytes]:
    from memlm.jobs.trial.fact_slots import (
        analyze,  # imports torch and transformers, slow, so only in a worker
    )

    return analyze(*arguments)


def _read_tokens(*arguments: Any) -> list[ReadText]:
    from memlm.jobs.trial.fact_slots import read_tokens  # as above

    return read_tokens(*arguments)


def _report_reads(texts: Sequence[ReadText], config: Config, provenance: Mapping[str, Any]) -> None:
    """Write the statistics and the picture, and say the shares by part."""
    from memlm.results.token_reads.picture import draw_token_reads  # imports matplotlib

    run, counts = run_of(config), config.analysis.read_slot_counts
    facts = len({text.fact for text in texts})
    reads = summarize(texts, counts)
    storage.write_json(storage.join(run.uri, READS_FILE), {**provenance, "num_facts": facts, "reads": reads})
    with TemporaryDirectory() as folder:
        path = Path(folder) / READS_PICTURE_FILE
        shown = pictured(texts)
        draw_token_reads(shown, counts, path, title="Reads of trainable slots, token by token, before learning")
        storage.write_bytes(storage.join(run.uri, READS_PICTURE_FILE), path.read_bytes())
    for line in format_reads(reads, counts, facts):
        say(line)
    say(f"reads: {storage.join(run.uri, READS_FILE)}, {READS_PICTURE_FILE}")


def pictured(texts: Sequence[ReadText]) -> list[ReadText]:
    """A statement and a question about each of the first facts."""
    by_fact: dict[str, list[ReadText]] = {}
    for text in texts:
        by_fact.setdefault(text.fact, []).append(text)
    return [
        next(text for text in chosen if text.kind == kind)
        for number, chosen in enumerate(list(by_fact.values())[:NUM_PICTURED])
        for kind in ("statement", "question")
    ]


def summary(facts: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
    """Medians and ranges over facts, and for each number of slots the share of unknown facts that
    it was enough to learn, with a 95 % interval over the facts."""
    names = [name for name in facts[0] if name.startswith("num_")]
    spread = {
        name: {"median": median(values), "from": min(values), "to": max(values)}
        for name in names
        if (values := [fact[name] for fact in facts])
    }
    new = [fact for fact in facts if fact["learned_with"] != 0]
    return {
        "num_facts": len(facts),
        "num_known_before": len(facts) - len(new),
        "num_steps": config.analysis.num_steps,
        "spread": spread,
        "learned_within": {
            str(count): _share([fact["learned_with"] is not None and fact["learned_with"] <= count for fact in new])
            for count in sorted(config.analysis.slot_counts)
            if new
        },
    }


def _share(sufficed: Sequence[bool]) -> dict[str, Any]:
    """A share with Wilson's interval, which holds at 0 and 1 too."""
    count, share, z = len(sufficed), sum(sufficed) / len(sufficed), NormalDist().inv_cdf(0.975)
    middle, width = share + z**2 / (2 * count), z * sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return {"share": share, "ci": [max(0.0, (middle + sign * width) / (1 + z**2 / count)) for sign in (-1, 1)]}


def format_summary(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"  {'of ' + str(summary['num_facts']) + ' facts':34} median   from     to"]
    for name, spread in summary["spread"].items():
        label = name.removeprefix("num_").replace("_", " ") + " slots"
        lines.append(f"  {label:34} {spread['median']:6g} {spread['from']:6g} {spread['to']:6g}")
    new = summary["num_facts"] - summary["num_known_before"]
    lines.append(f"  learned in {summary['num_steps']} steps, of {new} facts that were not known before")
    return lines + [
        f"  {'with ' + count + ' slots':34} {found['share']:6.0%} [{found['ci'][0]:.0%}, {found['ci'][1]:.0%}]"
        for count, found in summary["learned_within"].items()
    ]


def format_reads(reads: Mapping[str, Any], slot_counts: Sequence[int], num_facts: int) -> list[str]:
    lines = [f"  trainable share of a token's reads, over {num_facts} facts"]
    for kind, found in reads.items():
        for count in slot_counts:
            shares = found[f"t={count}"]["by_part"].items()
            shown = ", ".join(f"{part} {each['share']:.0%}" for part, each in shares)
            lines.append(f"  {f'{kind}s, {count} slots':34} {shown}")
    return lines
