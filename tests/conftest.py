from typing import Any

import pytest
import torch

pytest_plugins = ["tests.support.swept", "tests.support.one_rank"]  # fixtures that tests in several folders share

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests with Ray into one group of `--dist loadgroup`, so that they share a process and its
    Ray. They start first, since they take longest; then tests with clusters of their own."""
    if config.getoption("dist", "no") != "loadgroup":
        return
    own = {item: item.get_closest_marker("xdist_group") is not None for item in items}
    for item in items:
        if item.get_closest_marker("ray") and not own[item]:
            item.add_marker(pytest.mark.xdist_group("ray"))
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, own[item]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep tests without a group in one process with their module, whose fixtures they share."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class GroupsAndModules(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if scope == nodeid else scope

    return GroupsAndModules(config, log)
