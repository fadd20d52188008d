"""Checkpoints and patches for tests of patches."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from memlm import storage
from memlm.kinds import CHECKPOINT_KIND, PATCH_FILE, PATCH_KIND
from memlm.methods.config import OptimizerConfig
from memlm.methods.full import FullConfig, FullFinetuning
from memlm.methods.lora import LoRAConfig
from memlm.methods.method import LearningInputs
from memlm.methods.parts.adapters import MergedAdapter
from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.methods.sparse_memory_decorrelated import SparseMemoryDecorrelatedConfig
from memlm.training.patch import (
    changed_rows,
    save_patch,
)
from memlm.training.step import finetune_step
from tests.support.tiny import (
    TWO_SEPARATE,
    background_reads,
    random_background,
    random_batch,
    random_statements,
    sparse_config,
    state,
    tiny_model,
)

CONFIG = {"architecture": "memory", "model": {"num_layers": 3}}
INPUTS = {"corpus": "abc"}
ONE_FILE, SHARDED = "1GB", "4KB"


def base_model(method: str) -> nn.Module:
    return tiny_model(TWO_SEPARATE, dense=not method.startswith("sparse_memory"))


def learn(method: str, model: nn.Module) -> nn.Module:
    fixed = OptimizerConfig(kind="adamw", learning_rate=0.01)
    if method == "sparse_memory":
        learner = SparseMemoryFinetuning(model, sparse_config(), random_background(model), seed=0)
    elif method == "sparse_memory_decorrelated":
        inputs = LearningInputs(
            background=random_background(model),
            seed=0,
            reads=background_reads(model),
            statements=random_statements,
        )
        learner = SparseMemoryDecorrelatedConfig().build(model, inputs)
    elif method == "lora":
        learner = MergedAdapter(model, LoRAConfig(rank=2, optimizer=fixed), seed=0)
    else:
        learner = FullFinetuning(model, FullConfig(optimizer=fixed))
    for seed in range(2):
        finetune_step(learner, [random_batch(seed)])
    return learner.finish()


def write_checkpoint(uri: Path, model: nn.Module, *, shard: str = ONE_FILE, config: dict = CONFIG) -> str:
    with storage.write_artifact(str(uri), kind=CHECKPOINT_KIND, config=config, inputs=INPUTS) as draft:
        model.save_pretrained(draft.path, max_shard_size=shard)
    return str(uri)


def write_patch(uri: Path, checkpoint: str, before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    inputs = {"checkpoint": storage.read_manifest(checkpoint).digest}
    with storage.write_artifact(str(uri), kind=PATCH_KIND, config={"method": uri.name}, inputs=inputs) as draft:
        save_patch(changed_rows(before, after), draft.path / PATCH_FILE)
    return str(uri)


def learned_patch(folder: Path, method: str, shard: str = ONE_FILE) -> tuple[str, str, dict[str, Tensor]]:
    """A checkpoint, what a method learned from it as a patch, and the learned weights."""
    model = base_model(method)
    checkpoint = write_checkpoint(folder / "base", model, shard=shard)
    before = state(model)
    after = state(learn(method, model))
    return checkpoint, write_patch(folder / "patch", checkpoint, before, after), after


def files_of(uri: str) -> list[str]:
    return sorted(str(path.relative_to(uri)) for path in Path(uri).rglob("*") if path.is_file())


def stored(uri: str) -> dict[str, Tensor]:
    tensors = {}
    for path in sorted(Path(uri).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def same_bits(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(
        first.flatten().view(torch.uint8), second.flatten().view(torch.uint8)
    )


NAN = float("nan")


WEIGHT = "model.layers.0.self_attn.q_proj.weight"


def crafted(folder: Path, checkpoint: str, tensors: dict[str, Tensor] | bytes) -> str:
    """A patch artifact with right digests and any content."""
    inputs = {"checkpoint": storage.read_manifest(checkpoint).digest}
    with storage.write_artifact(str(folder / "crafted"), kind=PATCH_KIND, config={}, inputs=inputs) as draft:
        if isinstance(tensors, bytes):
            (draft.path / PATCH_FILE).write_bytes(tensors)
        else:
            save_file(tensors, draft.path / PATCH_FILE)
    return str(folder / "crafted")


def of_rows(
    numbers: list[int], value: float = 0.5, dtype: torch.dtype = torch.float32, width: int = 12, **changes: Tensor
):
    """A patch of the weight; the rows as the checkpoint has them before, and filled with the
    value after."""
    old = base_model("full").state_dict()[WEIGHT]
    before = old[[row % len(old) for row in numbers]].to(dtype)[:, :width].contiguous()
    parts = {"rows": torch.tensor(numbers), "before": before, "after": torch.full_like(before, value)}
    return {f"{WEIGHT}:{part}": tensor for part, tensor in (parts | changes).items()}
