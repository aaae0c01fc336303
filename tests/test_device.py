"""What is chosen by the device: which it is, precision, loader processes, memory."""

import subprocess
import sys

import pytest
import torch

from base.errors import UserError
from config.jobs import Jobs
from pipeline.device import MOST_WORKERS, autocast_dtype, loader_workers, pick_device

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
    assert autocast_dtype("auto", CPU) is dtype
    assert autocast_dtype("bf16", CPU) is torch.bfloat16
    assert autocast_dtype("fp32", CPU) is None


@pytest.mark.parametrize(("has_units", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_bf16_where_it_need_not_emulate_it(monkeypatch, has_units, dtype):
    supports = lambda including_emulation=True: has_units or including_emulation  # noqa: E731  as torch answers on a T4
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports)
    assert autocast_dtype("auto", GPU) is dtype
    assert autocast_dtype("bf16", GPU) is torch.bfloat16


@pytest.fixture
def current(monkeypatch):
    """A machine with two GPUs; those that became the current one, in turn."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize(
    ("asked", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), (["cuda:1", "cuda:0"], 1)], ids=str
)
def test_the_gpu_that_is_asked_for_is_the_one_whose_stream_events_mark(current, asked, index):
    device = pick_device(Jobs(devices=asked))
    assert device == torch.device("cuda", index)
    assert current == [device]


def test_a_gpu_is_deterministic_and_exact_in_float32_for_whoever_picks_it(current, monkeypatch):
    cudnn = torch.backends.cudnn
    for name, value in {"benchmark": True, "deterministic": False, "allow_tf32": True}.items():
        monkeypatch.setattr(cudnn, name, value)
    pick_device(Jobs(devices="cuda:1"))
    assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == (False, True, False)


def test_a_cpu_that_is_asked_for_leaves_the_gpus_alone(current):
    assert pick_device(Jobs(devices="cpu")) == CPU
    assert current == []


def test_a_gpu_that_is_not_there_is_refused(current):
    with pytest.raises(UserError, match=r"jobs\.devices: no cuda:2 here; this machine has 2 GPUs; use auto"):
        pick_device(Jobs(devices="cuda:2"))
    assert current == []


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
        f"torch.set_num_threads(1); {first}\n"
        "steps(); before = faults(); steps(); print(faults() - before)"
    )
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
