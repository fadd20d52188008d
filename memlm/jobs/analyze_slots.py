"""Memory checkpoint -> the slots of each fact: how many its wordings share, how few suffice to learn it, and which tokens read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import ray
import torch
from torch import nn

from memlm import storage
from memlm.config import Config, identity
from memlm.data.facts import Fact
from memlm.jobs.checks import require_ready
from memlm.jobs.cluster import Progress, connect, quiet, say
from memlm.jobs.materials import device_of, load_materials, load_model, trial_inputs, trial_of
from memlm.jobs.token_pages import PageFact, write_page
from memlm.methods.config import SparseMemoryConfig
from memlm.run import RunError, run_of
from memlm.training.finetune import Materials, facts_of
from memlm.training.slot_analysis import FactSlots, LearnedWith, minimum_slots_to_learn, slots_of_fact

SLOTS_FILE = "slots.json"
PAGE_FILE = "tokens.html"


def run(config: Config) -> str:
    """Write slots.json and tokens.html into the run's folder; returns the uri of the first."""
    run = run_of(config)
    require_ready(config)
    method = sparse_method(config)
    inputs = trial_inputs(config, "memory")
    with connect(config):
        task = ray.remote(_analyze).options(num_cpus=1, num_gpus=int(config.cluster.use_gpu))
        facts, page = ray.get(task.remote(config, method))
    output = storage.join(run.uri, SLOTS_FILE)
    settings = {"method": identity(method), "stream": identity(config.stream), "analysis": identity(config.analysis)}
    report = {"inputs": inputs, "seed": config.seed, **settings, "summary": summary(facts, config), "facts": facts}
    storage.write_json(output, report)
    if page:
        storage.write_bytes(storage.join(run.uri, PAGE_FILE), page)
    for line in format_summary(report["summary"]):
        say(line)
    say(f"slots: {output}")
    return output


def sparse_method(config: Config) -> SparseMemoryConfig:
    """The method whose slots are analysed. Raises RunError for one that selects none, or for more slots than the pool has."""
    method, num_slots = config.method, config.model.memory.num_slots * config.model.memory.num_pools
    if not isinstance(method, SparseMemoryConfig):
        raise RunError(
            f"--method is {method.name}, which selects no slots; leave it out, or give {SparseMemoryConfig.name}"
        )
    if max(config.analysis.slot_counts) > num_slots:
        raise RunError(
            f"analysis.slot_counts is {config.analysis.slot_counts}, and model.memory has {num_slots} slots; leave out what is above"
        )
    return method


def _analyze(config: Config, method: SparseMemoryConfig) -> tuple[list[dict[str, Any]], bytes]:
    """The entries of slots.json, and the page; empty for none."""
    quiet()
    torch.set_num_threads(config.cluster.threads_per_worker)
    run, trial = run_of(config), trial_of(config)
    materials = load_materials(run, config.evaluation.num_text_blocks, with_counts=True)
    model = load_model(run.checkpoint("memory"), device_of(config))
    facts = facts_of(trial, materials)[: config.analysis.num_facts]
    progress = Progress(f"learning each of {len(facts)} facts with as few slots as suffice", len(facts))
    found = []
    for fact in facts:
        found.append(_find(fact, model, method, materials, config))
        progress.advance(note=f"core set {len(found[-1].slots.core)}, learned with {found[-1].learned.num_slots}")
    page = _page(found[: config.analysis.num_page_facts], model, method, materials, config)
    return [_entry(*one) for one in found], page


class _Found(NamedTuple):
    fact: Fact
    slots: FactSlots
    learned: LearnedWith


def _find(fact: Fact, model: nn.Module, method: SparseMemoryConfig, materials: Materials, config: Config) -> _Found:
    assert materials.background is not None, "loaded with counts"
    slots = slots_of_fact(
        model,
        materials.tokenizer,
        fact,
        method,
        materials.background,
        max_length=config.stream.max_length,
        seed=config.seed,
    )
    learned = minimum_slots_to_learn(
        model,
        materials.tokenizer,
        fact,
        method,
        materials.background,
        slot_counts=config.analysis.slot_counts,
        num_steps=config.analysis.num_steps,
        max_length=config.stream.max_length,
        evaluation=config.evaluation,
        seed=config.seed,
    )
    return _Found(fact, slots, learned)


def _page(
    found: Sequence[_Found], model: nn.Module, method: SparseMemoryConfig, materials: Materials, config: Config
) -> bytes:
    if not found:
        return b""
    lead = (
        f"How many of the {method.num_trainable_slots} slots that {method.label} would train for a fact each token reads, "
        f"before it is learned. Run {config.run_name}."
    )
    shown = [PageFact(fact, slots.trainable, _note(slots, learned)) for fact, slots, learned in found]
    with TemporaryDirectory() as folder:
        path = Path(folder) / PAGE_FILE
        write_page(path, model, materials.tokenizer, shown, lead=lead)
        return path.read_bytes()


def _note(slots: FactSlots, learned: LearnedWith) -> str:
    return (
        f"Accessed {len(slots.accessed)} slots, shared by all wordings {len(slots.shared)}, core set {len(slots.core)}; "
        + ("not learned" if learned.num_slots is None else f"learned with {learned.num_slots} slots")
    )


def _entry(fact: Fact, slots: FactSlots, learned: LearnedWith) -> dict[str, Any]:
    trainable = torch.isin(slots.trainable, slots.core).sum()
    return {
        "id": fact.id,
        "num_accessed": len(slots.accessed),
        "num_shared": len(slots.shared),
        "num_core": len(slots.core),
        "num_core_answering": len(slots.answering),
        "num_trainable": len(slots.trainable),
        "num_trainable_in_core": int(trainable),
        "learned_with": learned.num_slots,
        "learned_in_steps": learned.num_steps,
    }


def summary(facts: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
    """Medians and ranges over facts, and the share of the facts not known before that each number of slots sufficed for."""
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
