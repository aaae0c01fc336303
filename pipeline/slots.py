"""Where a job may run on this machine: slots, each a device with its share of the cores, each behind a lock.

The locks lie in the machine's temporary folder, so that two runs share its GPUs without sharing one at a time.
"""

import contextlib
import glob
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import joblib

from base.errors import UserError, listed
from base.locks import holder_of, try_lock
from config.jobs import Jobs

# Every library that starts threads of its own on import reads one of these.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PROBE = (
    "import json, torch; n = torch.cuda.device_count(); "
    "print(json.dumps([str(getattr(torch.cuda.get_device_properties(i), 'uuid', i)) for i in range(n)]))"
)


@dataclass(frozen=True)
class Slot:
    device: str
    """cpu, cuda:0, ... as this process sees it."""
    lock: Path
    environment: dict[str, str]
    settings: tuple[str, ...]
    """Overrides for the job's command line."""


@dataclass
class Place:
    """The slots of one machine."""

    slots: list[Slot] = field(default_factory=list)

    @contextlib.contextmanager
    def free_slot(self, avoid: str | None = None) -> Iterator[Slot | None]:
        """A slot that is ours for the block, or None when all are taken now.

        Args:
            avoid: the device that failed last; taken only when nothing else is free.
        """
        for slot in sorted(self.slots, key=lambda slot: slot.device == avoid):
            lock = try_lock(slot.lock, for_everybody=True)
            if lock is not None:
                try:
                    yield slot
                finally:
                    lock.release()
                return
        yield None

    def taken_by(self) -> str:
        """Who holds the first of them."""
        return holder_of(self.slots[0].lock)


def place_here(jobs: Jobs, members: int) -> Place:
    """The slots of this machine.

    On CPUs one thread each, as many jobs side by side as there are cores: two jobs on a thread each train 2 to 20 %
    more tiles per second than one job on two threads (Unet/resnet18, 128 and 256 px, 2 cores), and load, decode and
    start side by side too. Threads are a function of the machine and the experiment alone, never of what happens to
    run: sums are split by thread, and after a few steps another number of threads has made another network.

    Args:
        members: of the whole experiment; where there are fewer than cores, each gets more threads.
    """
    devices = devices_here(jobs)
    threads = threads_per_job(jobs, members, len(gpus()))
    bounded = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if devices == ["cpu"]:
        count = jobs.parallel or max(1, joblib.cpu_count() // threads)
        settings = ("jobs.devices=cpu", f"jobs.threads={threads}")
        return Place([Slot("cpu", _lock_path(f"cpu-{i}"), bounded, settings) for i in range(count)])
    uuids, visible = gpus(), _visible()
    # Interleaved: the first jobs spread over the GPUs before a second one joins any of them.
    slots = [
        Slot(
            device,
            _lock_path(f"gpu-{uuids[index]}-{i}"),
            bounded | {"CUDA_VISIBLE_DEVICES": visible[index] if visible else str(index)},
            ("jobs.devices=auto", f"jobs.threads={threads}"),
        )
        for i in range(jobs.per_device)
        for device, index in ((device, gpu_index(device)) for device in devices)
    ]
    return Place(slots[: jobs.parallel or None])


def devices_here(jobs: Jobs) -> list[str]:
    """The devices that `jobs.devices` means on this machine: ["cpu"], or GPUs as ["cuda:0", ...]."""
    if jobs.devices == "auto":
        return [f"cuda:{i}" for i in range(len(gpus()))] or ["cpu"]
    devices = [jobs.devices] if isinstance(jobs.devices, str) else jobs.devices
    refuse_missing_gpus(devices, len(gpus()))
    return devices


def refuse_missing_gpus(devices: list[str], gpu_count: int) -> None:
    """
    Raises:
        UserError: GPUs among the devices that a machine with this many has not.
    """
    missing = [device for device in devices if device != "cpu" and gpu_index(device) >= gpu_count]
    if missing:
        has = f"this machine has {gpu_count} {'GPU' if gpu_count == 1 else 'GPUs'}"
        raise UserError(f"jobs.devices: no {listed(missing)} here; {has}; use auto, or cpu")


def gpu_index(device: str) -> int:
    """cuda:1 -> 1; cuda alone is the first."""
    return int(device.partition(":")[2] or 0)


def threads_per_job(jobs: Jobs, members: int, gpu_count: int) -> int:
    """CPU threads of one job: `jobs.threads`, or the cores divided by the jobs that can run side by side at most."""
    if jobs.threads:
        return jobs.threads
    if jobs.devices == "auto":
        devices = gpu_count
    else:
        devices = 0 if jobs.device == "cpu" else 1 if isinstance(jobs.devices, str) else len(jobs.devices)
    side_by_side = min(members, devices * jobs.per_device) if devices else members
    return max(1, joblib.cpu_count() // side_by_side)


@lru_cache
def gpus() -> list[str]:
    """The identities of the GPUs that torch sees; they stay the same whatever CUDA_VISIBLE_DEVICES numbers them."""
    drivers = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/dxg") + glob.glob("/dev/kfd")  # NVIDIA's, WSL's, AMD's
    if sys.platform == "linux" and not drivers:
        return []  # no driver: spares the seconds that importing torch takes
    # Asked in a process of its own: a supervisor must not sit on GPU memory.
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout
    return json.loads(answer)


def _visible() -> list[str]:
    return [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]


def _lock_path(name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / "foldscape-slots"
    if not folder.exists():
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # somebody else made it this very moment
            folder.chmod(0o1777)  # shared by everybody on the machine
    return folder / f"{name}.lock"
