"""Goodput: the share of a pretraining's time that is left after failures, saves and restarts."""

import math
from dataclasses import dataclass

GPU_HOURS_PER_FAILURE = 50_700.0
"""Llama 3: 419 unexpected interruptions in 54 days on 16,384 GPUs, one in 3.1 hours (arXiv
2407.21783, section 3.3.4)."""
RESTART_SECONDS = 300.0
"""Seconds from the loss of a device until the run trains again, apart from reading its state: the
loss is detected and processes start."""


@dataclass(frozen=True, kw_only=True)
class Goodput:
    share: float
    """Share of the time that is spent on training steps that count."""
    interval_seconds: float
    """Time between two saved training states."""
    hours_between_failures: float


def goodput(*, devices: int, save_seconds: float, load_seconds: float, failures_per_device_hour: float) -> Goodput:
    """Goodput with a state saved every sqrt(2 * time to save * time between failures) (Young 1974;
    Daly 2006). Saves, repeated steps since the last state, and restarts are subtracted."""
    if not failures_per_device_hour:
        return Goodput(share=1.0, interval_seconds=math.inf, hours_between_failures=math.inf)
    between = 3600 / (failures_per_device_hour * devices)
    interval = math.sqrt(2 * save_seconds * between)
    lost = interval / 2 + save_seconds + RESTART_SECONDS + load_seconds
    share = interval / (interval + save_seconds) * max(0.0, 1 - lost / between)
    return Goodput(share=share, interval_seconds=interval, hours_between_failures=between / 3600)
