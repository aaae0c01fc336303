"""What is chosen by the device: loader processes."""

import pytest
import torch

from config.jobs import Jobs
from pipeline.device import MOST_WORKERS, loader_workers

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_by_default_a_gpu_is_fed_and_a_cpu_keeps_its_cores(threads):
    threads(3)
    assert loader_workers(Jobs(), CPU) == 0
    assert loader_workers(Jobs(), GPU) == 3
    threads(MOST_WORKERS + 5)
    assert loader_workers(Jobs(), GPU) == MOST_WORKERS


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
@pytest.mark.parametrize("asked", [0, 2, 20])
def test_what_is_asked_for_is_done(device, asked):
    assert loader_workers(Jobs(loader_workers=asked), device) == asked
