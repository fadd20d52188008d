"""Figures computed from a ledger, and numbers that clocks change."""

import sqlite3
from contextlib import closing
from statistics import mean

import pytest

from memlm.jobs import pareto_sweep
from tune_spaces import load_spaces

METHODS = ["sparse_memory", "lora", "full"]
ONE_EVERY_TIME = [METHODS[0], *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:])]
QUESTIONS = {"arithmetic", "known_facts"}
HELD_OUT = {*QUESTIONS, *(f"{name}_nats" for name in QUESTIONS), "text", "text_ends"}
SEEDS = [0, 1]


def sweep(config) -> str:
    return pareto_sweep.run(config, load_spaces(config.sweep.methods, config.sweep.scale))


def mean_of(score: dict) -> float:
    return mean(score["items"])


def drop_of(start: dict, end: dict) -> float:
    """Check the figures and numbers as stated."""
    if start["measure"] == "nats_per_token":
        return (mean_of(end) - mean_of(start)) / (start["chance"] - mean_of(start))
    return (mean_of(start) - mean_of(end)) / (mean_of(start) - start["chance"])


def margin_of(start: dict) -> float:
    """By how much a model is better than chance, of 1 or of the chance of a loss."""
    loss = start["measure"] == "nats_per_token"
    return 1 - mean_of(start) / start["chance"] if loss else mean_of(start) - start["chance"]


# Run again.


def times_of(swept) -> dict[str, int]:
    files = [path for path in swept.run.rglob("*") if path.is_file() and path.name != ".lock"]
    kept = ("manifest.json", "blocks.parquet", "model.safetensors", "counts.safetensors")
    return {str(path): path.stat().st_mtime_ns for path in files if path.name in kept or path.parent.name == "trials"}


def without_times(frontier: dict) -> dict:
    def of(values: dict) -> dict:
        return {name: value for name, value in values.items() if not name.startswith("seconds")}

    points = [of({**point, "scores": of(point["scores"])}) for point in frontier["points"]]
    return {**frontier, "points": points, "digest": ""}


def query(swept, sql: str, *values: str) -> list:
    with closing(sqlite3.connect(swept.storage / "mlflow.db")) as connection:
        return connection.execute(sql, values).fetchall()


RUNS_OF = """
    SELECT run_uuid, (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND key = 'mlflow.parentRunId')
    FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?
"""
