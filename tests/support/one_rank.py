import os
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory) -> Iterator[None]:
    """A process group of one rank for all tests that train in this process: DeepSpeed keeps the
    first group of a process for good."""
    store = tmp_path_factory.mktemp("one_rank") / "store"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAUNCHED.items():
            patch.setenv(name, value)
        wait = timedelta(minutes=1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1, timeout=wait)
        kept = dict(os.environ)
        yield
        dist.destroy_process_group()
        for name in os.environ.keys() - kept.keys():
            del os.environ[name]
