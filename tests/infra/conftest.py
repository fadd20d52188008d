"""Tests that take a minute or more wait for `make infra-test`."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("MEMLM_INFRA"):
        for item in items:
            if item.get_closest_marker("infra"):
                item.add_marker(pytest.mark.skip(reason="long; make infra-test runs it"))
