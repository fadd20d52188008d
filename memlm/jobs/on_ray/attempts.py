"""Which units of work were begun, and which of them kill whoever begins them?

Ray starts a worker that died again, and gives it its work again, without limit: a unit that
takes all memory would do so for ever. So an attempt is written down before the work. One that is
followed by another in the same session killed its worker; the last one of a session may have
died with its driver, which says nothing of the unit, and one whose node is gone with the node.
After too many the unit is in quarantine, and stays there.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import ray

from memlm import storage

QUARANTINED = "quarantined"
ATTEMPT_NAMES = rf"[0-9a-zA-Z.]+_\d{{3,}}|{QUARANTINED}"
"""The names of the files in which attempts are written down."""
_NO_NODE = ""


def _no_nodes() -> set[str]:
    return {_NO_NODE}


@dataclass(frozen=True, kw_only=True)
class Attempts:
    uri: str
    session: str
    """Names one life of the driver; digits or letters only."""
    limit: int
    nodes: Callable[[], set[str]] = _no_nodes
    """Those that are alive; asked only where a unit was begun before."""
    node: str = _NO_NODE
    """This one."""

    def begin(self, unit: str) -> bool:
        """Write down an attempt; False, and none, if the unit is in quarantine or has to go
        there now."""
        names = storage.list_names(storage.join(self.uri, unit))
        if QUARANTINED in names:
            return False
        begun = Counter(name.partition("_")[0] for name in names)
        died = sum(number if session == self.session else number - 1 for session, number in begun.items())
        died -= self._lost_with_their_nodes(unit, [name for name in names if name.startswith(f"{self.session}_")])
        name = QUARANTINED if died >= self.limit else f"{self.session}_{begun[self.session]:03d}"
        record = {"node": self.node, "host": socket.gethostname(), "pid": os.getpid(), "at": time.time(), "died": died}
        storage.write_json(storage.join(self.uri, unit, name), record)
        return name != QUARANTINED

    def has_given_up(self, unit: str) -> bool:
        """Whether the unit is in quarantine."""
        return QUARANTINED in storage.list_names(storage.join(self.uri, unit))

    def forget(self, unit: str) -> None:
        """It went well, and is begun again by others: what it met before says nothing any more."""
        storage.delete_made(storage.join(self.uri, unit), loose=ATTEMPT_NAMES)

    def _lost_with_their_nodes(self, unit: str, names: list[str]) -> int:
        """Of these attempts, those on nodes that are no longer there."""
        alive = self.nodes() if names else set()
        return sum(storage.read_json(storage.join(self.uri, unit, name))["node"] not in alive for name in names)

    def on_this_node(self) -> "Attempts":
        """In a worker: says where an attempt is made, and asks the cluster which nodes it still
        has."""
        return replace(self, nodes=_alive, node=ray.get_runtime_context().get_node_id())


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
