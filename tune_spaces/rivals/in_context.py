"""Ceiling: the frozen model with the fact before its question."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.in_context import InContextConfig

BASE = InContextConfig()

SPACES = {
    "laptop": [{"num_statements": grid([1, 3])}],
    "controls": [{"num_statements": grid([1, 3])}],
    "smoke": [{"num_statements": grid([1, 3])}],
    "wiki": [{"num_statements": grid([1, 3])}],
}
