"""Actors that workers find by their name."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAMESPACE = "memlm"


def beside_driver(actor: type, name: str) -> Any:
    """What makes the actor on the driver's own node: other nodes may be lost, and the job must
    not end with them."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(name=name, num_cpus=0, scheduling_strategy=here)
