"""Which units of work were begun, and which of them kill whoever begins them?

Ray starts a worker that died again, and gives it its work again, without limit: a unit that takes all memory would do so for ever. So an
attempt is written down before the work. One that is followed by another in the same session killed its worker; the last one of a session
may have died with its driver, which says nothing of the unit. After too many the unit is in quarantine, and stays there.
"""

import os
import socket
import time
from collections import Counter
from dataclasses import dataclass

from memlm import storage

QUARANTINED = "quarantined"


@dataclass(frozen=True, kw_only=True)
class Attempts:
    uri: str
    session: str
    """Names one life of the driver; digits or letters only."""
    limit: int

    def begin(self, unit: str) -> bool:
        """Write down an attempt; False, and none, if the unit is in quarantine or has to go there now."""
        names = storage.list_names(storage.join(self.uri, unit))
        if QUARANTINED in names:
            return False
        begun = Counter(name.partition("_")[0] for name in names)
        died = sum(number if session == self.session else number - 1 for session, number in begun.items())
        name = QUARANTINED if died >= self.limit else f"{self.session}_{begun[self.session]:03d}"
        record = {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time(), "died": died}
        storage.write_json(storage.join(self.uri, unit, name), record)
        return name != QUARANTINED
