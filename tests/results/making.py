"""Trials with known scores."""

from typing import Any

import numpy as np

from memlm.results.frontier import build_frontier
from memlm.results.scores import SetScore, TrialResult


def right(*items: float, task: str = "known_facts@1", chance: float = 0.0) -> SetScore:
    return SetScore(task=task, measure="exact_match", chance=chance, items=items)


def share(value: float, num_items: int = 20, *, chance: float = 0.0) -> SetScore:
    """The first items are right."""
    number = round(value * num_items)
    return right(*(1.0,) * number, *(0.0,) * (num_items - number), chance=chance)


def nats(*items: float, chance: float = 5.0, task: str = "text@1") -> SetScore:
    return SetScore(task=task, measure="nats_per_token", chance=chance, items=items)


def a_trial(
    method: str,
    learning: float | SetScore,
    before: dict[str, SetScore],
    after: dict[str, SetScore],
    *,
    seed: int = 0,
    checkpoint: str = "",
    extra: dict[str, float] | None = None,
    **hyperparameters: float | int | str,
) -> TrialResult:
    new_facts = learning if isinstance(learning, SetScore) else share(learning)
    return TrialResult(
        key=f"{method}-{hyperparameters}-{checkpoint}-{seed}",
        method=method,
        hyperparameters=hyperparameters,
        seed=seed,
        start={"new_facts": share(0, len(new_facts.items))} | before,
        end={"new_facts": new_facts} | after,
        extra=extra or {},
        checkpoint=checkpoint,
    )


def lost(method: str, learning: float, drop: float, *, seed: int = 0, **hyperparameters: float) -> TrialResult:
    """A trial that knew all of 20 known facts before."""
    return a_trial(
        method, learning, {"known_facts": share(1)}, {"known_facts": share(1 - drop)}, seed=seed, **hyperparameters
    )


def frontier_of_trials(*trials: TrialResult, samples: int = 200, **arguments: Any) -> dict[str, Any]:
    return build_frontier("laptop", trials, samples=samples, **arguments)


def random_trials(*, checkpoints: tuple[str, ...] = ("",), seeds: int = 3, settings: int = 2) -> list[TrialResult]:
    """A sweep with all sets of a run, random items and starts that trials share."""
    rng = np.random.default_rng(0)

    def asked(rate: float, number: int, task: str) -> SetScore:
        return right(*(rng.random(number) < rate).astype(float).tolist(), task=task, chance=0.1)

    def likelihood(mean: float, number: int, task: str) -> SetScore:
        return nats(*np.round(rng.gamma(2, mean / 2, number), 6).tolist(), task=task)

    def scores(lost: float) -> dict[str, SetScore]:
        return {
            "known_facts": asked(0.9 - 0.5 * lost, 30, "known_facts@1"),
            "known_facts_nats": likelihood(0.2 + lost, 30, "known_facts_nats@1"),
            "arithmetic": asked(0.8 - 0.3 * lost, 21, "arithmetic@1"),
            "arithmetic_nats": likelihood(0.2 + 0.5 * lost, 21, "arithmetic_nats@1"),
            "text": likelihood(0.5 + 0.2 * lost, 8, "text@1"),
            "text_ends": likelihood(0.1 + lost, 8, "text_ends@1"),
        }

    trials = []
    for checkpoint in checkpoints:
        for base, methods in (("memory", ("sparse_memory", "sparse_memory_ours")), ("dense", ("lora", "full"))):
            before = scores(0.0)
            for seed in range(seeds):
                start = before | {"new_facts": asked(0.05, 20, "facts@1")}
                for method in methods:
                    for setting in range(1, settings + 1):
                        learned = setting / (settings + 0.2)
                        trial = a_trial(
                            method,
                            asked(learned, 20, "facts@1"),
                            before,
                            scores(learned * (0.4 if base == "memory" else 0.9)),
                            seed=seed,
                            checkpoint=checkpoint,
                            extra={"seconds": 10.0, "seconds_learning": 8.0, "steps": 800.0},
                            rate=float(setting),
                        )
                        trials.append(TrialResult(**{**vars(trial), "start": start}))
    return trials
