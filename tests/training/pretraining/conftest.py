"""Results of runs on one and on two workers, made once."""

import pytest
import torch
import torch.multiprocessing as mp

from tests.training.pretraining.runs import blocks_in, make_blocks, one_worker, two_workers


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    folder = str(tmp_path_factory.mktemp("pretrain"))
    make_blocks(folder)
    # At once, since each reads what the other saved.
    started = [
        mp.start_processes(work, args=(folder,), nprocs=world_size, start_method="spawn", join=False)
        for work, world_size in ((two_workers, 2), (one_worker, 1))
    ]
    for processes in started:
        while not processes.join():
            pass
    one = torch.load(f"{folder}/of_one_0", weights_only=False)
    two = [torch.load(f"{folder}/of_two_{rank}", weights_only=False) for rank in range(2)]
    return {"one": one, "two": two, "blocks": blocks_in(folder)}
