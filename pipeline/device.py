"""What the device can do, and what training and prediction do with it."""

import os
from typing import Any

import torch

from base.memory import keep_freed_memory
from config import Experiment
from config.jobs import Jobs
from pipeline.slots import gpu_index, refuse_missing_gpus, threads_per_job

MOST_WORKERS = 8  # each is a whole interpreter with its libraries


def pick_device(jobs: Jobs) -> torch.device:
    """The device of this process: `jobs.device`, for auto the first GPU or the CPU. A GPU becomes torch's current one.

    What is done on it is deterministic from here on, whichever command asks.

    Raises:
        UserError: a GPU that is not there.
    """
    make_deterministic()
    gpu_count = torch.cuda.device_count()
    name = jobs.device
    if name == "auto":
        name = "cuda:0" if gpu_count else "cpu"
    refuse_missing_gpus([name], gpu_count)
    if name == "cpu":
        return torch.device(name)
    device = torch.device("cuda", gpu_index(name))
    # An event marks the current GPU's stream, whichever the tensors lie on: a loss or a batch of probabilities would be
    # read before it has arrived. The random state that a checkpoint keeps is the current GPU's too.
    torch.cuda.set_device(device)
    return device


def set_up_cpu(experiment: Experiment) -> None:
    """Threads and memory of this process, before its first step."""
    # As many threads as a job of the grid has, since another number adds in another order.
    torch.set_num_threads(threads_per_job(experiment.jobs, experiment.member_count, torch.cuda.device_count()))
    keep_freed_memory()


def loader_workers(jobs: Jobs, device: torch.device) -> int:
    """Processes that load and augment: `jobs.loader_workers`, or those that keep a GPU fed."""
    if jobs.loader_workers is not None:
        return jobs.loader_workers
    return 0 if device.type == "cpu" else min(torch.get_num_threads(), MOST_WORKERS)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that convolutions compute in; None: plain float32."""
    if precision == "auto":
        if device.type == "cuda":
            # Emulated it runs on GPUs before Ampere too (T4, V100), where fp16 has units of its own.
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if _bf16_pays(torch.cpu.get_capabilities()) else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]


def _bf16_pays(able: dict[str, Any]) -> bool:
    """Whether a CPU of these capabilities is faster in bf16.

    Told by its kind: a timing may come out otherwise the next time, and with it a member. AMD's AVX-512 is faster in
    bf16; Intel's takes 1.2 to 1.5 times as long (docs/results.md), but its AMX is made for it (not measured here).
    """
    intel = "intel" in str(able.get("cpu_name", "")).lower()
    return bool(able.get("amx_bf16") or (able.get("avx512_bf16") and not intel))


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def make_deterministic() -> None:
    """The same bits for the same input on one machine: cuDNN picks its algorithms without measuring. And float32 is
    float32: as TF32, torch's default for convolutions, it would be rounded nearly as bf16 is."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
