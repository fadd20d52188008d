"""Rival: the frozen model with statements that BM25 finds among the learned ones before every
question."""

from memlm.jobs.sweep.spaces import grid
from memlm.methods.retrieval import RetrievalConfig

BASE = RetrievalConfig()

SPACES = {
    "laptop": [{"num_statements": grid([1, 3])}],
    "controls": [{"num_statements": grid([1, 3])}],
    "smoke": [{"num_statements": grid([1, 3])}],
    "wiki": [{"num_statements": grid([1, 3])}],
}
