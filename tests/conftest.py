import torch

pytest_plugins = ["tests.support.swept"]  # fixtures that tests in several folders share

torch.set_num_threads(1)
