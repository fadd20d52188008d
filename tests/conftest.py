import pytest
import torch

pytest_plugins = ["tests.support.swept", "tests.support.one_rank"]  # fixtures that tests in several folders share

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups for `pytest --dist loadgroup`: all tests with Ray share one worker process, and start
    first because they take longest; other tests share one with their module."""
    if config.getoption("dist", "no") != "loadgroup":
        return
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: _group(item) != "ray")


def _group(item: pytest.Item) -> str:
    return "ray" if item.get_closest_marker("ray") else item.nodeid.partition("::")[0]
