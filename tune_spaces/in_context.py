"""Ceiling: the frozen model with the fact before its question."""

from ray import tune

from memlm.methods.config import InContextConfig

BASE = InContextConfig()

SPACES = {
    "laptop": [{"num_statements": tune.grid_search([1, 3])}],
    "smoke": [{"num_statements": tune.grid_search([1, 3])}],
    "wiki": [{"num_statements": tune.grid_search([1, 3])}],
}
