"""Checkpoint and corpus -> background counts. Units of micro-batches go to a pool of model actors; each writes its partial once.

Ray Data runs a task at least once, so a count is never a side effect: a partial is keyed by its unit and committed atomically, and
the driver adds up exactly the units of the plan.
"""

from typing import Any

import ray.data
import torch
from ray.data import ActorPoolStrategy
from transformers import AutoModelForCausalLM

from memlm import storage
from memlm.config import Config, identity
from memlm.data.corpus import open_corpus
from memlm.jobs.checks import require_ready
from memlm.jobs.cluster import Progress, connect, handing_on_errors, num_processors, quiet, say
from memlm.model.language_model import attention_on
from memlm.run import COUNTS_KIND, counts_config, is_made, require_checkpoint, require_corpus, run_of, tracking_uri
from memlm.slots.accesses import memory_layers, value_pools
from memlm.slots.counts import BackgroundCounts
from memlm.tracking import Tracker, git_sha
from memlm.training.config import CountingConfig
from memlm.training.counting import count_unit, num_batches, units
from memlm.training.patch import CHECKPOINT_KIND

PARTIAL_KIND = "partial_counts"
COUNTS_FILE = "counts.safetensors"
EXPERIMENT = "memlm background counts"


def run(config: Config) -> str:
    """Count, or find it counted, or go on with the units that are missing; returns the counts' uri."""
    run = run_of(config)
    require_ready(config)
    inputs = {"checkpoint": require_checkpoint(config, "memory").digest, "corpus": require_corpus(config).digest}
    wanted = counts_config(config)
    if is_made(run.counts, kind=COUNTS_KIND, config=wanted, inputs=inputs, part="counting"):
        say(f"count: reusing {run.counts}")
        return run.counts
    tracker = Tracker(tracking_uri(config), EXPERIMENT)
    storage.open_artifact(run.checkpoint("memory"), kind=CHECKPOINT_KIND)  # a damaged one is found before work is done
    num_blocks = len(open_corpus(run.corpus).train_blocks())
    plan = units(config.counting, num_blocks)
    tasks = [
        {
            "first": unit.start,
            "last": unit.stop,
            "uri": storage.join(run.partial_counts, f"unit_{unit.start:07d}_{unit.stop:07d}"),
        }
        for unit in plan
    ]
    with connect(config):
        counts = _count(config, tasks, run.checkpoint("memory"), run.corpus, inputs)
    with storage.write_artifact(run.counts, kind=COUNTS_KIND, config=wanted, inputs=inputs) as draft:
        counts.save(draft.path / COUNTS_FILE)
        draft.details.update(usage(counts))
    storage.delete(run.partial_counts)
    tags = {
        "stage": "count",
        "checkpoint": inputs["checkpoint"][:16],
        "data": inputs["corpus"][:16],
        "git_sha": git_sha(),
    }
    params = {"num_batches": num_batches(config.counting, num_blocks), "batch_blocks": config.counting.batch_blocks}
    with tracker.run(
        f"count/{storage.read_manifest(run.counts).digest}", name=f"count-{config.run_name}", params=params, tags=tags
    ) as tracked:
        tracked.log_metrics({f"slots/{name}": value for name, value in usage(counts).items()})
    say(
        f"count: {counts.num_batches} batches, {counts.num_tokens} tokens, {usage(counts)['share_read']:.0%} of the slots read, in {run.counts}"
    )
    return run.counts


def usage(counts: BackgroundCounts) -> dict[str, float]:
    """How the background uses the pool."""
    shares = counts.accesses.sort(descending=True).values.double() / max(1, int(counts.accesses.sum()))
    top = -(-len(shares) // 100)
    return {
        "num_batches": counts.num_batches,
        "num_sequences": counts.num_sequences,
        "num_tokens": counts.num_tokens,
        "share_read": float((counts.accesses > 0).double().mean()),
        "share_in_every_batch": float((counts.batch_frequency == counts.num_batches).double().mean()),
        "top_1_percent": float(shares[:top].sum()),
    }


def _count(
    config: Config, tasks: list[dict[str, Any]], checkpoint: str, corpus: str, inputs: dict[str, str]
) -> BackgroundCounts:
    num_actors = min(len(tasks), num_processors(config))
    counted = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        _CountUnits,
        fn_constructor_args=(config, checkpoint, corpus, inputs),
        batch_size=1,
        compute=ActorPoolStrategy(size=num_actors),
        num_cpus=0 if config.cluster.use_gpu else 1,
        num_gpus=1 if config.cluster.use_gpu else 0,
    )
    progress = Progress("counting accesses", tasks[-1]["last"])
    for row in counted.iter_rows():
        progress.advance(row["last"] - row["first"])
    total: BackgroundCounts | None = None
    for task in tasks:
        part = BackgroundCounts.load(storage.open_artifact(task["uri"], kind=PARTIAL_KIND) / COUNTS_FILE)
        total = part if total is None else total + part
    assert total is not None, "a corpus has at least one block"
    return total


class _CountUnits:
    """An actor that holds the model and counts one unit after another."""

    def __init__(self, config: Config, checkpoint: str, corpus: str, inputs: dict[str, str]) -> None:
        quiet()
        torch.set_num_threads(config.cluster.threads_per_worker)
        opened = open_corpus(corpus)
        self.settings: CountingConfig = config.counting
        self.inputs = inputs
        self.blocks = opened.train_blocks()
        self.eos_id, self.pad_id = opened.tokenizer.eos_token_id, opened.tokenizer.pad_token_id
        folder = storage.open_artifact(checkpoint, kind=CHECKPOINT_KIND)
        device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention_on(device))
        self.model = model.to(device).eval()
        assert memory_layers(self.model) and value_pools(self.model), "the memory checkpoint has memory layers"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with handing_on_errors():
            for first, last, uri in zip(batch["first"], batch["last"], batch["uri"], strict=True):
                wanted = {**identity(self.settings), "first": int(first), "last": int(last)}
                if not is_made(uri, kind=PARTIAL_KIND, config=wanted, inputs=self.inputs):
                    counts = count_unit(
                        self.model,
                        self.blocks,
                        range(first, last),
                        self.settings,
                        eos_id=self.eos_id,
                        pad_id=self.pad_id,
                    )
                    with storage.write_artifact(uri, kind=PARTIAL_KIND, config=wanted, inputs=self.inputs) as draft:
                        counts.save(draft.path / COUNTS_FILE)
        return batch
