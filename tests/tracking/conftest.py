"""A database of MLflow that tests share, and how they read it."""

import sqlite3
from collections.abc import Callable

import pytest


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the file: creating it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'deep' / 'mlflow.db'}"


@pytest.fixture
def query(uri: str) -> Callable[..., list]:
    """What a reader who knows nothing of our code finds in the database."""

    def rows(sql: str, *values: str) -> list:
        connection = sqlite3.connect(uri.removeprefix("sqlite:///"))
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    return rows
