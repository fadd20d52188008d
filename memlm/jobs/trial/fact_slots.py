"""Worker's side of `analyze_slots`: slots of each fact, the page of coloured tokens, and the reads
of each token."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn

from memlm import artifacts
from memlm.artifacts import trial_of
from memlm.config import Config
from memlm.data.questions.facts import Fact
from memlm.jobs.on_ray.console import Progress
from memlm.jobs.on_ray.workers import device_of, enter_worker
from memlm.jobs.trial.materials import load_materials, load_model
from memlm.jobs.trial.token_pages import PageFact, write_page
from memlm.kinds import TOKEN_PAGE_FILE
from memlm.methods.config import SlotMethodConfig
from memlm.results.token_reads.statistics import ReadText
from memlm.training.analysis.slot_analysis import FactSlots, minimum_slots_to_learn, slots_of_fact
from memlm.training.analysis.token_reads import read_texts
from memlm.training.materials import Materials, facts_of


def analyze(config: Config, method: SlotMethodConfig, inputs: dict[str, str]) -> tuple[list[dict[str, Any]], bytes]:
    """Entries of slots.json for the config's seed, and the page, which may be empty."""
    model, materials, facts = _load(config, inputs)
    facts = facts[: config.analysis.num_facts]
    progress = Progress(
        f"learning each of {len(facts)} facts of seed {config.seed} with as few slots as suffice", len(facts)
    )
    found = []
    for fact in facts:
        found.append(_find(fact, model, method, materials, config))
        progress.advance(note=f"core set {len(found[-1].slots.core)}, learned with {found[-1].learned_with}")
    page = _page(found[: config.analysis.num_page_facts], model, method, materials, config)
    return [_entry(one, config.seed) for one in found], page


def read_tokens(config: Config, method: SlotMethodConfig, inputs: dict[str, str]) -> list[ReadText]:
    """The tokens of the texts about the facts of the config's seed, with their reads."""
    model, materials, facts = _load(config, inputs)
    assert materials.background is not None, "loaded with counts"
    return [
        text
        for fact in facts[: config.analysis.num_read_facts]
        for text in read_texts(
            model,
            materials.tokenizer,
            fact,
            method,
            materials.background,
            slot_counts=config.analysis.read_slot_counts,
            max_length=config.stream.max_length,
            seed=config.seed,
        )
    ]


def _load(config: Config, inputs: dict[str, str]) -> tuple[nn.Module, Materials, list[Fact]]:
    enter_worker(config.cluster)
    trial, materials = trial_of(config), load_materials(config, inputs)
    checkpoint = artifacts.checkpoint(config, "memory").uri
    model = load_model(checkpoint, device_of(config.cluster), digest=inputs["checkpoint"])
    return model, materials, facts_of(trial, materials)


class _Found(NamedTuple):
    fact: Fact
    slots: FactSlots
    learned_with: int | None


def _find(fact: Fact, model: nn.Module, method: SlotMethodConfig, materials: Materials, config: Config) -> _Found:
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
        reads=materials.reads,
        slot_counts=config.analysis.slot_counts,
        num_steps=config.analysis.num_steps,
        max_length=config.stream.max_length,
        evaluation=config.evaluation,
        seed=config.seed,
    )
    return _Found(fact, slots, learned)


def _page(
    found: Sequence[_Found], model: nn.Module, method: SlotMethodConfig, materials: Materials, config: Config
) -> bytes:
    if not found:
        return b""
    lead = (
        f"How many of the {method.num_trainable_slots} slots that {method.label} would train for a fact each token reads, "
        f"before it is learned. Run {config.run_name}."
    )
    shown = [PageFact(fact, slots.trainable, _note(slots, learned_with)) for fact, slots, learned_with in found]
    with TemporaryDirectory() as folder:
        path = Path(folder) / TOKEN_PAGE_FILE
        write_page(path, model, materials.tokenizer, shown, lead=lead)
        return path.read_bytes()


def _note(slots: FactSlots, learned_with: int | None) -> str:
    return (
        f"Accessed {len(slots.accessed)} slots, shared by all wordings {len(slots.shared)}, core set {len(slots.core)}; "
        + ("not learned" if learned_with is None else f"learned with {learned_with} slots")
    )


def _entry(found: _Found, seed: int) -> dict[str, Any]:
    fact, slots, learned_with = found
    trainable = torch.isin(slots.trainable, slots.core).sum()
    return {
        "id": fact.id,
        "seed": seed,
        "num_accessed": len(slots.accessed),
        "num_shared": len(slots.shared),
        "num_core": len(slots.core),
        "num_core_answering": len(slots.answering),
        "num_trainable": len(slots.trainable),
        "num_trainable_in_core": int(trainable),
        "learned_with": learned_with,
    }
