"""Results of runs on one and on two workers, made once."""

import pytest
import torch

from tests.support.ranks import start_ranks
from tests.training.pretraining.runs import FEW_STAGES, STAGES, blocks_in, make_blocks, one_worker, two_workers


@pytest.fixture(scope="session")
def results(tmp_path_factory, request) -> dict:
    of_results = [item for item in request.session.items if "results" in item.fixturenames]
    stages = STAGES if any(item.get_closest_marker("slow") for item in of_results) else FEW_STAGES
    folder = str(tmp_path_factory.mktemp("pretrain"))
    make_blocks(folder)
    # At once, since each reads what the other saved.
    started = [
        start_ranks(work, folder, stages, number=world_size) for work, world_size in ((two_workers, 2), (one_worker, 1))
    ]
    for processes in started:
        while not processes.join():
            pass
    one = torch.load(f"{folder}/of_one_0", weights_only=False)
    two = [torch.load(f"{folder}/of_two_{rank}", weights_only=False) for rank in range(2)]
    return {"one": one, "two": two, "blocks": blocks_in(folder)}
