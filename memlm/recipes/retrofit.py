"""Recipes on the generated world that compare a memory added to a trained model with one that was
pretrained from scratch."""

from dataclasses import replace

from memlm.config import Config
from memlm.model.config import ModelConfig
from memlm.recipes.laptop import RULE, laptop

PRETRAINED = "laptop_checkpoints"
"""The run whose models are compared: at each seed, a memory model and its dense twin, pretrained on
the same text."""


def laptop_scratch() -> Config:
    """The memory models of `laptop_checkpoints`, pretrained from scratch, on the facts of
    `laptop_retrofit`, and full finetuning of their dense twins."""
    base = laptop()
    return replace(
        base,
        recipe="laptop_scratch",
        base_run=PRETRAINED,
        evaluation=replace(base.evaluation, seen_wordings=True),
        sweep=replace(
            base.sweep,
            scale="laptop_scratch",
            methods=("sparse_memory", RULE, "full"),
            checkpoints=(0, 1, 2),
        ),
    )


def laptop_retrofit() -> Config:
    """The dense twins of `laptop_checkpoints` with a memory added to them, whose keys fit the text
    that they were pretrained on. `--pretraining.num-steps` trains the memory, too."""
    scratch = laptop_scratch()
    return replace(
        scratch,
        recipe="laptop_retrofit",
        base_run="",
        model=_with_memory_added(scratch.model),
        pretraining=replace(scratch.pretraining, num_steps=0),
        sweep=replace(
            scratch.sweep,
            scale="laptop_retrofit",
            methods=("sparse_memory", RULE),
            compare_with=("laptop_scratch",),
        ),
    )


def _with_memory_added(model: ModelConfig) -> ModelConfig:
    return replace(
        model,
        base=f"{{runs}}/{PRETRAINED}-checkpoint-{{seed}}/checkpoint-dense",
        num_probes=0,  # the sweep itself measures what can be taught
        memory=replace(model.memory, placement="parallel"),
    )
