"""Rival: the frozen model with what BM25 finds among the learned statements before every question."""

from ray import tune

from memlm.methods.config import RetrievalConfig

BASE = RetrievalConfig()

SPACES = {
    "laptop": [{"num_statements": tune.grid_search([1, 3])}],
    "smoke": [{"num_statements": tune.grid_search([1, 3])}],
    "wiki": [{"num_statements": tune.grid_search([1, 3])}],
}
