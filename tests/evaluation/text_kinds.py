"""Nats of held-out text by kind of token, before and after one seed of facts is learned.

    python -m tests.evaluation.text_kinds laptop --storage runs     # options as for finetune
    python -m tests.evaluation.text_kinds wiki

Reads the run's corpus, checkpoints and counts, prints a table, and writes text-kinds.json into the
run's folder. Shows how much of the change in held-out text is where the model expects a text to
end.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm import artifacts, storage
from memlm.artifacts import trial_inputs, trial_of
from memlm.cli import parse
from memlm.config import Config
from memlm.data.encoding import decode_all, padding_id
from memlm.evaluation.likelihood import token_nats
from memlm.evaluation.suite import HeldOut
from memlm.evaluation.vocabulary import NEWLINE
from memlm.jobs.on_ray.workers import enter_worker
from memlm.jobs.trial.materials import load_materials, load_model
from memlm.methods.config import MethodConfig, OptimizerConfig
from memlm.methods.full import FullConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.reader import Reader
from memlm.run import run_of
from memlm.training.finetune import run_trial

METHODS: dict[str, Sequence[MethodConfig]] = {
    "dense": [
        FullConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=rate, weight_decay=0.1))
        for rate in (2e-5, 1e-4)
    ],
    "memory": [SparseMemoryConfig(num_trainable_slots=500, optimizer=OptimizerConfig(kind="sgd", learning_rate=10.0))],
}
"""Methods by the model that they start from."""
KINDS = ("newline after a stop", "other newlines", "end of text", "all other tokens")
ALL = "all tokens"
OUTPUT = "text-kinds.json"


def kinds_of(
    tokenizer: PreTrainedTokenizerBase, tokens: Int[Tensor, "blocks seq"]
) -> Bool[Tensor, "kinds blocks targets"]:
    """For each kind, the tokens of each block but its first that are of it. A newline comes after a
    stop if the token before it ends a sentence."""
    texts = decode_all(tokenizer, [[id] for id in range(len(tokenizer))])
    is_newline = torch.tensor([NEWLINE in text for text in texts])[tokens[:, 1:]]
    stops = torch.tensor([text.rstrip("\"')").endswith((".", "!", "?")) for text in texts])[tokens[:, :-1]]
    is_end = tokens[:, 1:] == tokenizer.eos_token_id
    return torch.stack([is_newline & stops, is_newline & ~stops, is_end, ~is_newline & ~is_end])


def nats_by_kind(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut
) -> dict[str, dict[str, float]]:
    """The share of the text and the mean nats, for each kind of token."""
    ids = {"eos_id": int(tokenizer.eos_token_id), "pad_id": padding_id(tokenizer)}
    scored = token_nats(Reader(model.eval(), tokenizer), held_out.text, batch_size=64, **ids)
    nats, targets = (torch.cat(parts) for parts in zip(*scored, strict=True))
    is_scored = targets >= 0
    chosen = dict(zip(KINDS, kinds_of(tokenizer, held_out.text) & is_scored, strict=True)) | {ALL: is_scored}
    total = int(is_scored.sum())
    return {
        kind: {"share": int(mask.sum()) / total, "nats": float(nats[mask].double().mean())}
        for kind, mask in chosen.items()
        if mask.any()
    }


def measure(config: Config) -> dict[str, Any]:
    """The nats of both models at the start, and after each method."""
    enter_worker(config.cluster)
    found: dict[str, Any] = {"recipe": config.recipe, "seed": config.seed, "start": {}, "end": []}
    for architecture, methods in METHODS.items():
        inputs = trial_inputs(config, architecture)
        materials = load_materials(config, inputs)
        for method in methods:
            model = load_model(artifacts.checkpoint(config, architecture).uri, digest=inputs["checkpoint"])
            before = nats_by_kind(model, materials.tokenizer, materials.held_out)
            found["start"][architecture] = before
            trial = trial_of(replace(config, method=method))
            result, learned = run_trial(trial, model, materials, key=trial.key(inputs))
            after = nats_by_kind(learned, materials.tokenizer, materials.held_out)
            scores = {
                name: {"start": result.start[name].value, "end": score.value} for name, score in result.end.items()
            }
            found["end"].append(
                {"model": architecture, "method": trial.title, "inputs": inputs, "nats": after, "scores": scores}
            )
            print(f"{trial.title}: learned {scores['new_facts']['end']:.2f}", flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """The change of each kind's nats, and what it adds to the mean over all tokens."""
    ends = found["end"]
    header = ["token", "share", *(f"{model}, start" for model in found["start"]), *(end["method"] for end in ends)]
    rows = [header, ["---"] * len(header)]
    for kind, start in found["start"]["dense"].items():
        starts = [f"{model[kind]['nats']:.3f}" for model in found["start"].values()]
        changes = []
        for end in ends:
            before, after = found["start"][end["model"]][kind], end["nats"][kind]
            change = after["nats"] - before["nats"]
            changes.append(f"{change:+.3f} ({change * after['share']:+.4f})")
        rows.append([kind, f"{start['share']:.1%}", *starts, *changes])
    for name in ("new_facts", "known_facts"):
        shown = [f"{end['scores'][name]['start']:.2f} to {end['scores'][name]['end']:.2f}" for end in ends]
        rows.append([f"{name}, exact match", *[""] * (len(header) - 1 - len(ends)), *shown])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    config = parse(__doc__ or "", stage="finetune")
    found = measure(config)
    storage.write_json(storage.join(run_of(config).uri, OUTPUT), found)
    print(table(found))


if __name__ == "__main__":
    main()
