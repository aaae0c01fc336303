"""What is chosen by the device: loader processes, memory."""

import subprocess
import sys

import pytest
import torch

from config.jobs import Jobs
from pipeline.device import MOST_WORKERS, autocast_dtype, loader_workers

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


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, None),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, None),
        ({}, None),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_is_faster_and_wherever_it_is_asked_to(monkeypatch, able, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) is dtype
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("fp32", cpu) is None


def test_freed_memory_is_kept_and_used_again():
    """In processes of their own, since the setting cannot be taken back."""
    assert faults_of_steps("keep_freed_memory()") < 0.1 * faults_of_steps("")


def faults_of_steps(first: str) -> int:
    """Fresh pages that the kernel gives to 20 steps which allocate and free 64 MiB each, after 20 in which small
    objects settle among the freed blocks."""
    code = (
        "import resource, torch; from base.memory import keep_freed_memory\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def steps():\n    for _ in range(20): torch.ones(16 << 20)\n"
        f"{first}\n"
        "steps(); before = faults(); steps(); print(faults() - before)"
    )
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
