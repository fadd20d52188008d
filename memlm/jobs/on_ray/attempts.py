"""Attempts at units of work, and quarantine for units that kill their workers.

Ray restarts a worker that died and gives it the same work again, without limit: a unit that needs
too much memory would be retried forever. So an attempt is recorded before the work. An attempt that
is followed by another in the same session killed its worker. The last attempt of a session may have
ended with its driver, and an attempt on a lost node with the node, so these do not count. A unit
with too many attempts goes into quarantine and stays there.
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
"""Names of the files that record attempts."""
_NO_NODE = ""


def _no_nodes() -> set[str]:
    return {_NO_NODE}


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """Record of attempts, one folder per unit below `uri`."""

    uri: str
    session: str
    """Name of this start of the driver; digits or letters only."""
    limit: int
    nodes: Callable[[], set[str]] = _no_nodes
    """Nodes that are alive; called only for a unit with earlier attempts."""
    node: str = _NO_NODE
    """This node."""

    def begin(self, unit: str) -> bool:
        """Record an attempt and return True; False if the unit is in quarantine, or goes there
        now."""
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

    def is_quarantined(self, unit: str) -> bool:
        """Whether the unit is in quarantine."""
        return QUARANTINED in storage.list_names(storage.join(self.uri, unit))

    def forget(self, unit: str) -> None:
        """Delete the attempts at a unit that succeeded and that others will begin again."""
        storage.delete_made(storage.join(self.uri, unit), loose=ATTEMPT_NAMES)

    def _lost_with_their_nodes(self, unit: str, names: list[str]) -> int:
        """Number of these attempts whose nodes were lost."""
        alive = self.nodes() if names else set()
        return sum(storage.read_json(storage.join(self.uri, unit, name))["node"] not in alive for name in names)

    def on_this_node(self) -> "Attempts":
        """Attempts for use in a worker: records its node, and asks the cluster for the living
        ones."""
        return replace(self, nodes=_alive, node=ray.get_runtime_context().get_node_id())


def _alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
