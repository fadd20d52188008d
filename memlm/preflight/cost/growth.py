"""Growth of each line of a plan with the number of slots, tokens, devices and trials."""

import math
from dataclasses import replace

from memlm.preflight.cost.stages import Plan
from memlm.preflight.cost.training import Pretraining

VARIABLES = ("slots", "tokens", "gpus", "trials")


def growth(plan: Plan) -> dict[tuple[str, str], str]:
    """Power of each variable with which a line of this plan grows, for a fixed layout: computed by
    changing one variable of the plan."""
    here = {(line.section, line.name): line.value for line in plan.quantities()}
    powers: dict[tuple[str, str], list[str]] = {key: [] for key in here}
    for name in VARIABLES:
        factor, larger = _larger(plan, name)
        for line in larger.quantities():
            before = here[line.section, line.name]
            if line.section == "layout" or not (0 < before < math.inf and 0 < line.value < math.inf):
                continue
            power = math.log(line.value / before) / math.log(factor)
            if abs(power) >= 0.02:
                powers[line.section, line.name].append(name if abs(power - 1) < 0.005 else f"{name}^{power:.2g}")
    return {key: " x ".join(found) for key, found in powers.items()}


def _larger(plan: Plan, variable: str) -> tuple[float, Plan]:
    """Factor by which the variable was raised, and the plan with it raised."""
    if variable == "trials":
        return 2.0, replace(plan, trials={setting: 2 * seeds for setting, seeds in plan.trials.items()})
    if variable == "tokens":
        assumptions = replace(plan.assumptions, corpus_tokens=2 * plan.corpus_tokens)
        more = plan.with_each(lambda part: replace(part, num_tokens=2 * part.num_tokens))
        return 2.0, replace(more, assumptions=assumptions)
    if variable == "gpus":
        return 2.0, plan.with_each(_on_more_devices)
    memory = plan.config.model.memory
    memory = replace(memory, num_half_keys=2 * memory.num_half_keys)
    config = replace(plan.config, model=replace(plan.config.model, memory=memory))
    return 4.0, replace(plan.with_each(lambda part: replace(part, config=config)), config=config)


def _on_more_devices(plan: Pretraining) -> Pretraining:
    layout = plan.layout
    everyone = layout.split == layout.devices > 1  # then the new devices share the columns too
    return replace(
        plan, layout=replace(layout, devices=2 * layout.devices, split=layout.split * (2 if everyone else 1))
    )
