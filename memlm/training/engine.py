"""DeepSpeed behind four verbs: backward, step, save, load. The only module that imports it."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from memlm.model.memory import ValuePool
from memlm.slots.accesses import value_pools
from memlm.training.checkpoints.export import export_with_split_pools
from memlm.training.checkpoints.fragments import fragments_of, load_fragments, save_fragments
from memlm.training.config import PretrainingConfig
from memlm.training.finite import DivergedError, first_not_finite
from memlm.training.row_sparse import LazyAdam

# DeepSpeed probes for GPUs and MPI at import; on a machine without a GPU both probes only cost
# time and print warnings.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.runtime.utils import combine_grad_norm_groups

# Compiles a C++ extension at the first start, for a faster all-reduce among the CPUs of one
# machine: a minute, and a compiler that a machine may lack, for what gloo does as well.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

BETAS, EPSILON = (0.9, 0.95), 1e-8


class Engine:
    """One rank of a DeepSpeed run. torch.distributed must be initialised, with one rank or more.
    Parameters that require no gradient stay as they are, and are in no training state.

    With pool_optimizer = "lazy_adam" DeepSpeed trains the rest of the model, and LazyAdam the
    pools, in one step and under one clip norm. Pools that are split over ranks (pool_split) must
    have been built split.
    """

    def __init__(self, model: nn.Module, config: PretrainingConfig) -> None:
        _require_split(model, config.pool_split)
        self.config = config
        self.world_size = dist.get_world_size()
        config.require_workers(self.world_size)
        self.num_micro_batches = config.batch_blocks // (config.micro_batch_blocks * self.world_size)
        lazy = value_pools(model) if config.pool_optimizer == "lazy_adam" else []
        self._pool_optimizer = LazyAdam(lazy, betas=BETAS, epsilon=EPSILON)
        self._pool_norm = torch.zeros(())
        self.gradient_norm = 0.0
        """The gradient's norm in the last step, over all parameters and the global batch, before
        it was clipped. If it is not finite, no weight moved."""
        self._value_learning_rate = config.value_learning_rate
        optimizer = torch.optim.AdamW(_parameter_groups(model, config), betas=BETAS, eps=EPSILON, fused=True)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,  # type: ignore[arg-type]
            config={
                "train_micro_batch_size_per_gpu": config.micro_batch_blocks,
                "gradient_accumulation_steps": self.num_micro_batches,
                # Without ZeRO the gradients are accessible, and `_clip` clips them.
                "gradient_clipping": config.clip_norm if config.zero_stage else 0.0,
                "zero_optimization": {"stage": config.zero_stage},
                "steps_per_print": 10**9,
            },
        )
        self._peak_rates = [group["peak_rate"] for group in optimizer.param_groups]
        if config.zero_stage:
            self._include_pools_in_zero_norm()

    @property
    def model(self) -> nn.Module:
        """What to call in a forward pass."""
        return self._engine

    @property
    def device(self) -> torch.device:
        return self._engine.device

    def set_learning_rate(self, share: float) -> None:
        """Set every group's rate to this share of its peak."""
        for group, peak in zip(self._optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * share
        self._value_learning_rate = self.config.value_learning_rate * share

    def backward(self, loss: Tensor) -> None:
        """Backward of one micro-batch; DeepSpeed averages over micro-batches and ranks."""
        self._engine.backward(loss)
        self._pool_optimizer.compact()

    def step(self) -> None:
        """Call after each micro-batch. Moves the weights after the last micro-batch of a batch,
        unless the norm of their gradient is not finite."""
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return
        # The pools' gradients are added up over ranks where DeepSpeed takes the mean.
        self._pool_norm = self._pool_optimizer.merge().to(self.device) / self.world_size
        if not self.config.zero_stage:
            self.gradient_norm = self._clip()
        self._engine.step()
        if self.config.zero_stage:
            # ZeRO itself skips a step whose norm is not finite, and may then report none.
            self.gradient_norm = (
                float(self._engine.get_global_grad_norm()) if self._engine.was_step_applied() else math.inf
            )
        if not math.isfinite(self.gradient_norm):
            self._pool_optimizer.skip_step()
            return
        share = min(1.0, self.config.clip_norm / (self.gradient_norm + 1e-6))
        self._pool_optimizer.step(learning_rate=self._value_learning_rate, gradient_scale=share / self.world_size)

    def _clip(self) -> float:
        """Clip DeepSpeed's gradients by the norm over them and the pools', or drop them if it is
        not finite; returns that norm."""
        parameters = [parameter for parameter in self._engine.module.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        norm = torch.nn.utils.get_total_norm([*gradients, self._pool_norm])
        if norm.isfinite():
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        else:
            self._engine.module.zero_grad(set_to_none=True)  # AdamW leaves alone what has no gradient
        return float(norm)

    def require_finite(self, when: str) -> None:
        """Raises DivergedError, on every rank, if some rank's share of the weights and moments
        is not finite. Every rank must call it."""
        fragments = fragments_of(self._engine.module, self._optimizer, self.config.zero_stage)
        held = [(name, part) for name, fragment in fragments.items() for part in fragment.parts()]
        pools = [(f"value pool {number}", matrix) for number, matrix in self._pool_optimizer.matrices()]
        names = sorted({*(name for name, _ in self._engine.module.named_parameters()), *(name for name, _ in pools)})
        found = first_not_finite([*held, *pools])
        first = torch.tensor(len(names) if found is None else names.index(found), device=self.device)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        if first < len(names):
            raise DivergedError(
                f"{names[int(first)]} or its moments are not finite {when}; {self.config.divergence_remedy}"
            )

    def _include_pools_in_zero_norm(self) -> None:
        """ZeRO computes the norm and clips by it within its step, after it has shared out the
        gradients. So its norm is extended to the pools' gradients."""
        optimizer = self._optimizer
        if self.config.zero_stage == 3:
            norms = optimizer._get_norm_groups
            optimizer._get_norm_groups = lambda: [*norms(), self._pool_norm]
        else:
            norm = optimizer.scaled_global_norm
            optimizer.scaled_global_norm = lambda: combine_grad_norm_groups([norm(), self._pool_norm])

    def save(self, directory: Path) -> None:
        """Save this rank's share of weights, optimizers and step counters. Waits for no other
        rank."""
        save_fragments(self._engine.module, self._optimizer, self.config.zero_stage, directory)
        self._pool_optimizer.save(directory)

    def load(self, directory: Path) -> None:
        """Load from a directory that holds the files of every rank of a run with any number of
        ranks and any ZeRO stage. Every rank must call it."""
        load_fragments(self._engine.module, self._optimizer, self.config.zero_stage, directory)
        self._pool_optimizer.load(directory)

    @contextmanager
    def whole_weights(self) -> Iterator[nn.Module]:
        """The model with all its weights in place, even if ZeRO-3 has shared them out. Every rank
        must enter the context. Not for split pools."""
        with self._whole_base() as model, self._pool_optimizer.as_parameters():
            yield model

    def export(self, directory: Path | None) -> None:
        """Write the model with all its weights as a Hugging Face checkpoint. Every rank must
        call it; the first one names the directory.

        Raises DivergedError before anything is written if they are not finite.
        """
        self.require_finite("after the last step")
        if self._pool_optimizer.is_split:
            with self._whole_base() as model:
                export_with_split_pools(model, directory)  # type: ignore[arg-type]
            return
        with self.whole_weights() as model:
            if directory is not None:
                model.save_pretrained(directory)  # type: ignore[operator]

    def trained_weights(self) -> dict[str, Tensor]:
        """What moves, by its name in the state dict, as copies on the CPU. Every rank must call
        it. Raises DivergedError if something is not finite. Not for split pools."""
        self.require_finite("after the last step")
        moving = {name for name, parameter in self._engine.module.named_parameters() if parameter.requires_grad}
        with self.whole_weights() as model:
            pools = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, ValuePool)}
            weights = dict(model.named_parameters())
            return {name: weights[name].detach().cpu().clone() for name in sorted(moving | pools)}

    @contextmanager
    def _whole_base(self) -> Iterator[nn.Module]:
        parameters = list(self._engine.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters, enabled=self.config.zero_stage == 3):
            yield self._engine.module


def _require_split(model: nn.Module, pool_split: int) -> None:
    for pool in value_pools(model):
        built_for = 1 if pool.split is None else pool.split.num_parts
        if built_for != pool_split:
            raise ValueError(
                f"pretraining.pool_split is {pool_split}, and the model was built with pools split over {built_for} ranks; build it with "
                "split_over_ranks(pretraining.pool_split)"
            )


def _parameter_groups(model: nn.Module, config: PretrainingConfig) -> list[dict[str, object]]:
    """The parameters that move: matrices with weight decay, vectors without, and the value pools,
    where they are parameters, at their own rate without."""
    values = {id(pool.weight) for pool in value_pools(model)}
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "vectors": [], "values": []}
    for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
        name = "values" if id(parameter) in values else "matrices" if parameter.ndim > 1 else "vectors"
        groups[name].append(parameter)
    rates = {"matrices": config.learning_rate, "vectors": config.learning_rate, "values": config.value_learning_rate}
    return [
        {
            "params": parameters,
            "lr": rates[name],
            "peak_rate": rates[name],
            "weight_decay": config.weight_decay if name == "matrices" else 0.0,
        }
        for name, parameters in groups.items()
        if parameters
    ]
