"""Actors that run on the driver's node and that workers find by name."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAMESPACE = "memlm"


def on_driver_node(actor: type, name: str) -> Any:
    """Actor class to start with `.remote()`: named, and on the driver's node, so that the job does
    not end with another node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(name=name, num_cpus=0, scheduling_strategy=here)


def find_actor(name: str) -> Any:
    return ray.get_actor(name, namespace=NAMESPACE)
