"""Overhead of Ray Tune in a sweep: twelve trials through `run_trials` with one worker, and the same
twelve in a plain loop.

Checkpoints have random weights, which cost as much as learned ones; the trials are the laptop's,
of a shorter stream.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from memlm import artifacts, storage
from memlm.config import ClusterConfig, Config, SweepConfig
from memlm.data.config import StreamConfig
from memlm.data.corpus.corpus import open_corpus
from memlm.jobs import prepare_corpus
from memlm.jobs.on_ray.cluster import connect
from memlm.jobs.on_ray.console import quiet
from memlm.jobs.sweep.planned_trials import PlannedTrial, plan_trials, read_results, unfinished
from memlm.jobs.sweep.starts import Part, Shared, start_of
from memlm.jobs.sweep.trials import run_trials
from memlm.jobs.sweep.weights import TrialWeights
from memlm.jobs.trial.materials import load_materials, load_model, read_model_config
from memlm.kinds import COUNTS_FILE
from memlm.model.config import Architecture
from memlm.model.language_model import build_model, model_config
from memlm.model.reader import PackedRecording, Recording
from memlm.recipes.laptop import laptop
from memlm.results.scores import Scores, TrialResult, join
from memlm.run import run_of
from memlm.slots.counts import BackgroundCounts
from memlm.training.finetune import run_trial
from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.inputs import seeded
from tune_spaces import load_spaces

ARCHITECTURES: tuple[Architecture, ...] = ("memory", "dense")
NUM_TRIALS = 12
NUM_FACTS, NUM_PASSES = 30, 8
"""Facts of a trial. The laptop's trials have 100 facts, so the overhead per trial weighs more here
than in a real sweep."""


def config_of(folder: str, device: torch.device) -> Config:
    """Three methods, two settings and two seeds each: twelve trials."""
    return replace(
        laptop(),
        run_name="sweep",
        storage=folder,
        tracking="off",
        stream=StreamConfig(num_facts=NUM_FACTS, num_passes=NUM_PASSES),
        sweep=SweepConfig(scale="smoke", seeds=(0, 1)),
        cluster=ClusterConfig(num_trials_at_once=1, use_gpu=device.type == "cuda"),
    )


def planned_trials(config: Config) -> tuple[list[PlannedTrial], dict[Architecture, dict[str, str]]]:
    planned, inputs = plan_trials(config, load_spaces(config.sweep.methods, config.sweep.scale))
    assert len(planned) == NUM_TRIALS, f"the smoke spaces make {len(planned)} trials of {config.sweep.seeds}"
    return planned, inputs


class _Sweep(Contender):
    wall = True

    def __init__(self, *, device: torch.device, folder: str) -> None:
        quiet()
        self.config = config_of(folder, device)
        self.run = run_of(self.config)


class Preparation(_Sweep):
    """Preparation, not a contender: makes the corpus, two checkpoints with random weights, and
    background counts."""

    def repeat(self, clock: Clock) -> None:
        with clock:
            corpus_digest = storage.read_manifest(prepare_corpus.run(self.config)).digest
            for architecture in ARCHITECTURES:
                self._write_checkpoint(architecture, corpus_digest)
            self._write_counts(corpus_digest)

    def _write_checkpoint(self, architecture: Architecture, corpus_digest: str) -> None:
        tokenizer = open_corpus(artifacts.corpus(self.config).uri).tokenizer
        shape = model_config(
            self.config.model,
            dense=architecture == "dense",
            vocab_size=len(tokenizer),
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        )
        with artifacts.checkpoint(self.config, architecture).made_from(corpus=corpus_digest).write() as draft:
            build_model(shape, seed=self.config.pretraining.seed).save_pretrained(draft.path)
            tokenizer.save_pretrained(draft.path)

    def _write_counts(self, corpus_digest: str) -> None:
        num_batches = self.config.counting.num_batches
        frequency = torch.randint(
            num_batches + 1, (self.config.model.memory.num_slots,), generator=seeded(11), dtype=torch.int64
        )
        counts = BackgroundCounts(
            batch_frequency=frequency,
            sequence_frequency=frequency.clone(),
            accesses=frequency.clone(),
            num_batches=num_batches,
            num_sequences=num_batches,
            num_tokens=num_batches,
        )
        checkpoint = artifacts.checkpoint(self.config, "memory").digest
        made = artifacts.counts(self.config).made_from(checkpoint=checkpoint, corpus=corpus_digest)
        with made.write() as draft:
            counts.save(draft.path / COUNTS_FILE)


class RaySweep(_Sweep):
    """`run_trials` with one worker; Ray is running before the clock starts."""

    def __init__(self, *, device: torch.device, folder: str) -> None:
        super().__init__(device=device, folder=folder)
        self.stack = ExitStack()
        self.stack.enter_context(connect(self.config))
        self.lease = self.stack.enter_context(storage.lease(self.run.sweep_lease, owner="benchmark"))

    def repeat(self, clock: Clock) -> None:
        with clock:
            planned, inputs = planned_trials(self.config)
            run_trials(
                self.config,
                self.run,
                unfinished(self.run, planned),
                inputs=inputs,
                holder=self.lease.holder,
                on_finished=lambda plan, entry: None,
            )
            self.results, _ = read_results(self.run, planned)

    def outputs(self) -> dict[str, Tensor]:
        return {plan.key: end_scores(result) for plan, result in self.results}

    def close(self) -> None:
        self.stack.close()


class BareLoop(_Sweep):
    """The loop of a sweep without Ray: the work of its actors, in one process and one trial after
    another. Trials share what they share in a sweep. One repeat is half of the trials, so that a
    sweep can come between two.

    It shares between trials what a sweep shares. One repeat is half of the trials, so that a
    sweep can be put between two.
    """

    def __init__(self, *, device: torch.device, folder: str) -> None:
        super().__init__(device=device, folder=folder)
        self.device = device
        # A sweep shares its cache out over the held-out sets and the seeds.
        self.max_bytes = self.config.sweep.trunk_cache_bytes // (1 + len(self.config.sweep.seeds))
        self.pending: list[PlannedTrial] = []
        self.results: dict[str, TrialResult] = {}

    def repeat(self, clock: Clock) -> None:
        with clock:
            if not self.results:
                self._load()
            for _ in range(NUM_TRIALS // 2):
                self._run(self.pending.pop(0))

    def _load(self) -> None:
        self.pending, inputs = planned_trials(self.config)
        checkpoints = {
            architecture: artifacts.checkpoint(self.config, architecture).uri for architecture in ARCHITECTURES
        }
        self.shared = Shared(
            config=self.config,
            run=self.run,
            model_configs={name: read_model_config(uri) for name, uri in checkpoints.items()},
            weights={
                name: {key: tensor.numpy() for key, tensor in load_model(uri).state_dict().items()}
                for name, uri in checkpoints.items()
            },
            materials=load_materials(self.config, inputs["memory"]),
        )
        self.weights = {
            name: TrialWeights(self.shared.model_configs[name], self.shared.weights[name], self.device)
            for name in ARCHITECTURES
        }
        self.parts: dict[Part, tuple[Scores, PackedRecording]] = {}
        self.recordings: dict[Part, Recording] = {}

    def _run(self, plan: PlannedTrial) -> None:
        start, recording = self._start(plan)
        materials = replace(self.shared.materials, recording=recording)
        with self.weights[plan.architecture].model_for(plan.trial.method) as model:
            self.results[plan.key], _ = run_trial(plan.trial, model, materials, key=plan.key, start=start)

    def _start(self, plan: PlannedTrial) -> tuple[Scores, Recording]:
        """Scores and a recording of the base model, made for the first trial that starts from
        it."""
        parts: list[Part] = [(plan.architecture, plan.trial.seed), (plan.architecture, None)]
        for part in parts:
            if part not in self.parts:
                self.parts[part] = start_of(self.shared, part, plan.trial, self.max_bytes)
        if parts[0] not in self.recordings:
            self.recordings[parts[0]] = Recording.unpack([self.parts[part][1] for part in parts])
        return join([self.parts[part][0] for part in parts]), self.recordings[parts[0]]

    def outputs(self) -> dict[str, Tensor]:
        return {key: end_scores(result) for key, result in self.results.items()}


def end_scores(result: TrialResult) -> Tensor:
    """Scores of all questions and blocks after learning."""
    return torch.tensor([value for name in sorted(result.end) for value in result.end[name].items])


def materials_folder(folder: Path) -> str:
    return str(folder / "storage")
