import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest_plugins = ["tests.support.swept", "tests.support.one_rank"]  # fixtures that tests in several folders share

torch.set_num_threads(1)


@functools.cache
def group_of(module: Path) -> str:
    """Name that modules share whose tests run in one process of `pytest -n 2`: "ray" where a test
    starts Ray, so that all use one; the argument of `xdist_group`, as where a module has clusters
    of its own; else the module's path. (xdist reads that mark itself, but not with pytest 9.2.)"""
    text = module.read_text()
    own = re.search(r'xdist_group\("(\w+)"\)', text)
    return own[1] if own else "ray" if "mark.ray" in text else str(module)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the group "ray" first, because it takes longest, then modules with own clusters."""
    if hasattr(config, "workerinput"):  # in a process of xdist's
        items.sort(key=lambda item: (group_of(item.path) != "ray", item.get_closest_marker("ray") is None))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Groups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / nodeid.partition("::")[0])

    return Groups(config, log)
