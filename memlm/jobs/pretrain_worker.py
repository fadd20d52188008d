"""Worker's side of `pretrain`: one rank of the DeepSpeed engine, with its progress, log and
checkpoint. The training loop itself is `training/pretrain.py`."""

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import ray.train
import torch
import torch.distributed as dist
from torch import nn

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.config import Config
from memlm.data.corpus.corpus import Corpus, open_corpus
from memlm.data.tokenizer import save_tokenizer
from memlm.jobs.on_ray.console import Progress, say
from memlm.jobs.on_ray.notice import Notice, Watch
from memlm.jobs.on_ray.workers import enter_worker
from memlm.jobs.pretrain_base import PretrainingOfBase, num_tokens
from memlm.jobs.tracked import corpus_read, log_config, log_model, model_sizes
from memlm.kinds import CONTROL_KIND
from memlm.model.capacity import PoolBytes, pool_bytes, require_room_for_values
from memlm.model.column_split import split_over_ranks
from memlm.model.language_model import NumParameters, attention_on, build_model, count_parameters, model_config
from memlm.tracking import Run, Tracker, TrackingError
from memlm.training.checkpoints.checkpoint import TrainingStates
from memlm.training.checkpoints.gates import Measured, MeasuredControl
from memlm.training.checkpoints.model_card import model_card
from memlm.training.finite import DivergedError
from memlm.training.goodput import FOLDER, Diary
from memlm.training.pretrain import PretrainingStep, Teacher, learning_rate_share, pretrain

if TYPE_CHECKING:
    from memlm.training.engine import Engine

EXPERIMENT = "memlm pretraining"
TRACKING_PAUSE_SECONDS = 300.0
"""Time without a new attempt after the tracking server did not answer: each attempt delays
training."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """Everything that a worker needs to know."""

    config: Config
    checkpoint: Artifact
    """To be made from the corpus of the digest among its inputs."""
    trained: str
    """The architecture, or the control in the place of a base's memory."""
    training_states: str
    tracking: str
    session: float
    """Start of the command, in seconds since 1970."""
    holder: storage.Holder
    """Holder of the lease: the driver."""

    @property
    def corpus_digest(self) -> str:
        return self.checkpoint.digests()["corpus"]

    @property
    def of_base(self) -> PretrainingOfBase | None:
        """What is trained in a base, for a recipe with one."""
        if not self.config.model.base:
            return None
        is_control = self.trained == CONTROL_KIND
        return PretrainingOfBase(config=self.config, inputs=self.checkpoint.digests(), is_control=is_control)

    @property
    def notice(self) -> str:
        return f"notice-{self.session}"


def require_room(config: Config, *, workers_here: int, device: torch.device | None = None) -> None:
    """Raise ValueError if the pools and their optimizer states do not fit into this machine's
    memory, shared by its workers, or into one device's own memory."""
    memory, settings = config.model.memory, config.pretraining
    if config.architecture == "dense" or not memory.layers:
        return
    tables, tables_are = settings.value_tables(config.cluster.num_workers)
    on_device = device is not None and device.type != "cpu"
    workers = 1 if on_device else workers_here
    require_room_for_values(
        num_half_keys=memory.num_half_keys,
        value_dim=memory.value_dim,
        num_pools=memory.num_pools,
        copies=tables * workers,
        copies_are=tables_are if workers == 1 else f"{tables_are}, in each of {workers} workers",
        pool_split=settings.pool_split,
        device=device,
    )


def _pool_bytes(config: Config) -> PoolBytes:
    settings, block = config.pretraining, config.corpus.block_size
    return pool_bytes(
        config.model.memory,
        pool_split=settings.pool_split,
        batch_tokens=settings.batch_blocks * block,
        micro_batch_tokens=settings.micro_batch_blocks * block,
    )


def _holds_lease(holder: storage.Holder) -> bool:
    """Whether our driver may still write. True if the storage does not answer: saving a state will
    report that too."""
    try:
        return holder.holds()
    except storage.StorageError as error:
        log.warning("the lease could not be read: %s", error)
        return True


def train_worker(loop_config: dict[str, WorkerTask]) -> str | None:
    """Train to the end, or until a notice. Returns the reason if the loss diverged, on all workers
    at the same step; an exception would make Ray start the same training again."""
    from memlm.training.engine import Engine  # imports DeepSpeed, which takes time: only in workers

    enter_worker(loop_config["task"].config.cluster)
    logging.getLogger("memlm").setLevel(logging.INFO)
    task = loop_config["task"]
    config, settings = task.config, task.config.pretraining
    corpus = open_corpus(artifacts.corpus(config).uri, digest=task.corpus_digest)
    device = ray.train.torch.get_device()
    require_room(config, workers_here=ray.train.get_context().get_local_world_size(), device=device)
    dist.barrier()  # no worker takes memory while another still measures what is free
    of_base = task.of_base
    model = _fresh_model(task, corpus, device) if of_base is None else of_base.model(device)
    sizes = count_parameters(model)
    rank = dist.get_rank()
    diary, start = None, torch.zeros(1, dtype=torch.int64, device=device)
    if rank == 0 and not task.checkpoint.is_there() and _holds_lease(task.holder):
        diary = Diary(uri=storage.join(task.training_states, FOLDER), session=task.session)
        start.fill_(diary.number)
    dist.broadcast(start, src=0)
    if not start:  # a worker died after the checkpoint was made, or another driver took over
        return None
    engine = Engine(model.to(device), settings)
    inputs = {**task.checkpoint.digests(), "config": digest_of(task.checkpoint)}
    states = TrainingStates(engine, task.training_states, inputs=inputs, start=int(start))
    first_step = states.load_newest()
    try:
        tracked = _tracked(task, inputs, sizes, to=task.tracking if rank == 0 else "")
    except TrackingError as error:  # the server answered when the command began; a restart continues without it
        say(f"warning: {error}; this start is not tracked")
        tracked = _tracked(task, inputs, sizes, to="")
    teacher = None if of_base is None else of_base.teacher(engine)
    run = _Pretraining(
        task=task, engine=engine, states=states, corpus=corpus, teacher=teacher, tracked=tracked, diary=diary
    )
    try:
        with tracked, tracked.measuring():
            if rank == 0:
                run.log_provenance()
                say(
                    f"pretrain {task.trained}: {sizes.base / 1e6:.2f} M base, {sizes.pool / 1e6:.2f} M pool, {sizes.active / 1e6:.2f} M active parameters; "
                    f"step {first_step} of {settings.num_steps}"
                )
            run.train(first_step)
            run.write_checkpoint(sizes)
    except _Stopped:
        return None
    except DivergedError as error:
        states.settle(wait=True)
        return str(error)
    return None


def _fresh_model(task: WorkerTask, corpus: Corpus, device: torch.device) -> nn.Module:
    config, settings = task.config, task.config.pretraining
    split = split_over_ranks(settings.pool_split) if config.architecture == "memory" else None
    model = build_model(
        model_config(
            config.model,
            dense=config.architecture == "dense",
            vocab_size=len(corpus.tokenizer),
            eos_id=corpus.tokenizer.eos_token_id,
            pad_id=corpus.tokenizer.pad_token_id,
        ),
        seed=settings.seed,
        attention=attention_on(device),
        split=split,
    )
    if dist.get_rank() == 0 and split is not None:
        say(
            f"pretrain {config.architecture}: each worker holds {_pool_bytes(config)} of the pools, in addition to its share of the rest"
        )
    return model


def _tracked(task: WorkerTask, inputs: dict[str, str], sizes: NumParameters, *, to: str) -> Run:
    config, settings = task.config, task.config.pretraining
    return Tracker(to, EXPERIMENT).run(
        f"pretrain/{inputs['corpus'][:16]}/{inputs['config'][:16]}",
        name=f"pretrain-{task.trained}-{config.run_name}-{inputs['config'][:6]}",
        params={
            "seed": settings.seed,
            "batch": settings.batch_blocks,
            **model_sizes(config),
            "num_steps": settings.num_steps,
            "learning_rate": settings.learning_rate,
            "value_learning_rate": settings.value_learning_rate,
            **({"pool_optimizer": settings.pool_optimizer} if sizes.pool else {}),
            "parameters_base": sizes.base,
            "parameters_pool": sizes.pool,
            "parameters_active": sizes.active,
        },
        tags={
            "stage": "pretrain",
            "architecture": task.trained,
            "data": task.corpus_digest[:16],
            "seed": str(settings.seed),
        },
    )


class _Stopped(KeyboardInterrupt):
    """Raised once the state that a notice asked for is saved. The tracked run ends as killed."""


@dataclass(kw_only=True)
class _Pretraining:
    """One worker's part in one attempt of the run."""

    task: WorkerTask
    engine: "Engine"
    states: TrainingStates
    corpus: Corpus
    teacher: Teacher | None
    tracked: Run
    diary: Diary | None
    """Only on rank 0."""
    history: list[dict[str, float]] = field(default_factory=list)
    unlogged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    silent_until: float = 0.0

    def log_provenance(self) -> None:
        try:
            log_config(self.tracked, self.task.config)
            self.tracked.log_inputs([corpus_read(self.task.config, self.task.corpus_digest)])
        except TrackingError as error:
            say(f"warning: {error}; the config is not logged by this start")

    def train(self, first_step: int) -> None:
        """Train to the last step. Raises _Stopped if a notice came and the state is saved."""
        settings, tokenizer = self.task.config.pretraining, self.corpus.tokenizer
        watch = Watch(self.task.notice, self.engine.device)
        progress = Progress(f"pretrain {self.task.trained}", settings.num_steps, done=first_step, every_seconds=15)
        seconds_stepping = 0.0
        if self.diary:
            self.diary.begin(first_step)
        for done in pretrain(
            self.engine,
            self.corpus.train_blocks(),
            settings,
            first_step=first_step,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
            teacher=self.teacher,
        ):
            seconds_stepping += done.seconds
            last = done.step == settings.num_steps
            notice = watch.after_step()
            self.states.settle()
            if (done.step % settings.checkpoint_every == 0 or notice) and not last:
                if self.diary and not _holds_lease(self.task.holder):
                    self.task.holder.require()
                self.states.save(done.step)
            reported = last or done.step % settings.log_every == 0
            if self.diary:
                progress.advance(note=f"loss {done.loss:.3f}")
                self.diary.add(
                    done.step,
                    seconds_stepping=seconds_stepping,
                    seconds_saving=self.states.seconds_waiting,
                    write=reported or bool(notice),
                )
            if reported:
                self._report(done)
            if notice and not last:
                self._handle(notice, done.step)
        self.states.settle(wait=True)
        if self.diary:
            self.task.holder.require()

    def _handle(self, notice: Notice, step: int) -> None:
        """Finish saving at once, since a notice may leave no time later; raise _Stopped if it says
        so."""
        failed = self.states.num_failed
        self.states.settle(wait=True)
        if self.diary and self.states.num_failed == failed:
            what_next = "a node is about to leave; training continues until then"
            if notice == Notice.STOP:
                what_next = "stopping"
            say(f"pretrain {self.task.trained}: saved a state at step {step}: {what_next}")
        if notice == Notice.STOP:
            raise _Stopped

    def _report(self, done: PretrainingStep) -> None:
        settings = self.task.config.pretraining
        metrics = {
            "train/loss": done.loss,
            "train/tokens_per_second": done.tokens_per_second,
            "train/learning_rate": settings.learning_rate * learning_rate_share(done.step - 1, settings),
            **({"train/divergence": done.divergence} if self.teacher else {}),
            **{f"slots/{name}": value for name, value in done.usage.items()},
        }
        self.history.append({"step": done.step, **metrics})
        goodput = self.diary.goodput().metrics() if self.diary else {}
        self.unlogged.append((done.step, {**metrics, **goodput}))
        self._log(last=done.step == self.task.config.pretraining.num_steps)

    def _log(self, *, last: bool) -> None:
        """Log all reports not logged yet. If the server does not answer, try again later, without
        delaying training."""
        if time.monotonic() < self.silent_until and not last:
            return
        try:
            while self.unlogged:
                step, metrics = self.unlogged[0]
                self.tracked.log_metrics(metrics, step=step)
                del self.unlogged[0]
        except TrackingError as error:
            self.silent_until = time.monotonic() + TRACKING_PAUSE_SECONDS
            say(f"warning: {error}; {len(self.unlogged)} reports will be logged later")

    def write_checkpoint(self, sizes: NumParameters) -> None:
        of_base = self.task.of_base
        weights = self.engine.trained_weights() if of_base is not None else {}
        if not self.diary:
            if of_base is None:
                self.engine.export(None)
            return
        with self.task.checkpoint.write() as draft:
            if of_base is None:
                self._export(draft.path, sizes)
            else:
                self._measured(of_base.write(draft, weights, self.corpus, device=self.engine.device))
            goodput = self.diary.goodput()
            draft.details.update(history=self.history, parameters=asdict(sizes), goodput=asdict(goodput))
        say(f"pretrain {self.task.trained}: {goodput}")
        self._log_checkpoint()

    def _export(self, folder: Path, sizes: NumParameters) -> None:
        config = self.task.config
        self.engine.export(folder)
        save_tokenizer(self.corpus.tokenizer, folder, max_length=config.model.max_positions)
        card = model_card(config.model, config.corpus, config.architecture, sizes, num_tokens=num_tokens(config))
        (folder / storage.README).write_text(card, encoding="utf-8")

    def _measured(self, found: Measured | MeasuredControl) -> None:
        """Print and log what was measured of a base's memory, or of the control."""
        for line in found.lines():
            say(f"pretrain {self.task.trained}: {line}")
        try:
            self.tracked.log_metrics({f"gates/{name}": value for name, value in found.numbers().items()})
        except TrackingError as error:
            say(f"warning: {error}; the gates are in the checkpoint's manifest")

    def _log_checkpoint(self) -> None:
        """Tag the run with the checkpoint's address and digest, by which the runs that use it find
        this one."""
        digest = self.task.checkpoint.digest
        tags = {"checkpoint": digest[:16], "checkpoint.digest": digest, "checkpoint.uri": self.task.checkpoint.uri}
        try:
            self.tracked.set_tags(tags)
        except TrackingError as error:
            say(f"warning: {error}; the checkpoint's digest is {digest}")
        if self.task.trained != CONTROL_KIND:
            log_model(self.tracked, self.task.checkpoint.open(), self.task.config)


def digest_of(checkpoint: Artifact) -> str:
    """Digest that identifies the training states of this configuration; training does not resume
    from states of another."""
    return hashlib.sha256(json.dumps(dict(checkpoint.identity), sort_keys=True).encode()).hexdigest()
