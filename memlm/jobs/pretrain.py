"""Token blocks -> checkpoint: Ray Train workers, each a rank of one DeepSpeed engine.

Progress, logging and storage are decided here; the loop itself is `training/pretrain.py`.
"""

import hashlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchTrainer

from memlm import storage
from memlm.config import IN_JOB, Config
from memlm.data.corpus import open_corpus
from memlm.jobs.cluster import Progress, connect, quiet, say
from memlm.model.capacity import PoolBytes, pool_bytes, require_room_for_values
from memlm.model.column_split import split_over_ranks
from memlm.model.language_model import attention_on, build_model, count_parameters, model_config
from memlm.run import RunError, checkpoint_config, is_made, require_corpus, run_of, tracking_uri
from memlm.tracking import Tracker, git_sha
from memlm.training.checkpoint import load_newest_state, save_state
from memlm.training.patch import CHECKPOINT_KIND

EXPERIMENT = "memlm pretraining"


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What a worker needs, and all it reads."""

    config: Config
    corpus: str
    corpus_digest: str
    checkpoint: str
    training_states: str
    tracking: str


def run(config: Config) -> str:
    """Pretrain the architecture, or find it pretrained, or go on where it was; returns the checkpoint's uri."""
    run, architecture = run_of(config), config.architecture
    corpus = require_corpus(config)
    checkpoint = run.checkpoint(architecture)
    wanted = checkpoint_config(config, architecture)
    if is_made(checkpoint, kind=CHECKPOINT_KIND, config=wanted, inputs={"corpus": corpus.digest}):
        say(f"pretrain {architecture}: reusing {checkpoint}")
        return checkpoint
    if not os.environ.get(IN_JOB) and not config.cluster.use_gpu:  # then this machine's memory is what trains
        _require_room(config, workers_here=config.cluster.num_workers)
    task = WorkerTask(
        config=config,
        corpus=run.corpus,
        corpus_digest=corpus.digest,
        checkpoint=checkpoint,
        training_states=run.training_states(architecture),
        tracking=tracking_uri(config),
    )
    Tracker(task.tracking, EXPERIMENT)  # a tracking server that is not there is found before work is done
    with connect(config):
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"task": task},
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.cluster.num_workers,
                use_gpu=config.cluster.use_gpu,
                resources_per_worker={"CPU": 1, "GPU": 1} if config.cluster.use_gpu else {"CPU": 1},
            ),
            run_config=ray.train.RunConfig(
                name=f"{config.run_name}-{architecture}-{corpus.digest[:8]}-{time.time_ns()}",
                storage_path=storage.join(run.uri, "ray"),
                failure_config=ray.train.FailureConfig(max_failures=config.cluster.max_failures),
            ),
        )
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            first = next(iter(error.worker_failures.values()))
            raise RunError(
                f"pretraining the {architecture} model failed: {_root(first)}; what is saved in {task.training_states} is kept"
            ) from error
    if not storage.has_artifact(checkpoint):
        raise KeyboardInterrupt  # Ray takes Ctrl-C for itself and returns as if all were well
    return checkpoint


def _require_room(config: Config, *, workers_here: int, device: torch.device | None = None) -> None:
    """Raises ValueError if the pools with what trains them do not fit, in the workers on this machine or in one device's own memory."""
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


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _train_worker(loop_config: dict[str, WorkerTask]) -> None:
    from memlm.training.engine import Engine  # imports DeepSpeed, which only a worker should pay for
    from memlm.training.pretrain import learning_rate_share, pretrain

    quiet()
    logging.getLogger("memlm").setLevel(logging.INFO)
    task = loop_config["task"]
    config, settings = task.config, task.config.pretraining
    torch.set_num_threads(config.cluster.threads_per_worker)
    corpus = open_corpus(task.corpus)
    tokenizer, blocks = corpus.tokenizer, corpus.train_blocks()
    device = ray.train.torch.get_device()
    _require_room(config, workers_here=ray.train.get_context().get_local_world_size(), device=device)
    dist.barrier()  # what one worker takes must not be missing where another still asks
    split = split_over_ranks(settings.pool_split) if config.architecture == "memory" else None
    model = build_model(
        model_config(
            config.model,
            dense=config.architecture == "dense",
            vocab_size=len(tokenizer),
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        ),
        seed=settings.seed,
        attention=attention_on(device),
        split=split,
    )
    sizes = count_parameters(model)
    rank = dist.get_rank()
    if rank == 0 and split is not None:
        say(
            f"pretrain {config.architecture}: each worker holds {_pool_bytes(config)} of the pools, beside its share of the rest"
        )
    engine = Engine(model.to(device), settings)
    inputs = {
        "corpus": task.corpus_digest,
        "config": _config_digest(config),
        "zero_stage": str(settings.zero_stage),
    }
    first_step = load_newest_state(engine, task.training_states, inputs=inputs)
    tracker = Tracker(task.tracking if rank == 0 else "", EXPERIMENT)
    tracked = tracker.run(
        f"pretrain/{inputs['corpus'][:16]}/{inputs['config'][:16]}",
        name=f"pretrain-{config.architecture}-{config.run_name}",
        params={
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
            "architecture": config.architecture,
            "git_sha": git_sha(),
            "data": task.corpus_digest[:16],
            "seed": str(settings.seed),
        },
    )
    progress = Progress(f"pretrain {config.architecture}", settings.num_steps, done=first_step, every_seconds=15)
    history: list[dict[str, float]] = []
    with tracked:
        if rank == 0:
            say(
                f"pretrain {config.architecture}: {sizes.base / 1e6:.2f} M base, {sizes.pool / 1e6:.2f} M pool, {sizes.active / 1e6:.2f} M active parameters; "
                f"step {first_step} of {settings.num_steps}"
            )
        for done in pretrain(
            engine,
            blocks,
            settings,
            first_step=first_step,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
        ):
            if rank == 0:
                progress.advance(note=f"loss {done.loss:.3f}")
            if done.step % settings.log_every == 0 or done.step == settings.num_steps:
                metrics = {
                    "train/loss": done.loss,
                    "train/tokens_per_second": done.tokens_per_second,
                    "train/learning_rate": settings.learning_rate * learning_rate_share(done.step - 1, settings),
                    **{f"slots/{name}": value for name, value in done.usage.items()},
                }
                tracked.log_metrics(metrics, step=done.step)
                history.append({"step": done.step, **metrics})
            if done.step % settings.checkpoint_every == 0 and done.step < settings.num_steps:
                save_state(engine, task.training_states, step=done.step, inputs=inputs)
        if rank == 0:
            config_json = checkpoint_config(config, config.architecture)
            with storage.write_artifact(
                task.checkpoint, kind=CHECKPOINT_KIND, config=config_json, inputs={"corpus": task.corpus_digest}
            ) as draft:
                engine.export(draft.path)
                tokenizer.save_pretrained(draft.path)
                draft.details.update(history=history, parameters=asdict(sizes))
        else:
            engine.export(None)
        dist.barrier()
        if rank == 0:
            storage.delete(task.training_states)


def _config_digest(config: Config) -> str:
    """Names the training states of one configuration; those of another are not gone on with."""
    return hashlib.sha256(
        json.dumps(checkpoint_config(config, config.architecture), sort_keys=True).encode()
    ).hexdigest()
