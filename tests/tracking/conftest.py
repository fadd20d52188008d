"""MLflow database that tests share, and a reader for it."""

import sqlite3
from collections.abc import Callable

import pytest


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the file: creating it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'deep' / 'mlflow.db'}"


@pytest.fixture
def query(uri: str) -> Callable[..., list]:
    """Contents of the database, read without memlm."""

    def rows(sql: str, *values: str) -> list:
        connection = sqlite3.connect(uri.removeprefix("sqlite:///"))
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    return rows
