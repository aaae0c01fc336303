"""How benchmarks measure: seconds, interleaved ratios, memory, a process of its own, and how a spread is told."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def told(values: Sequence[float], digits: int = 3) -> str:
    """Middle (least to most)."""
    middle, least, most = (f"{value:.{digits}f}" for value in (np.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def ratios(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    per: float = 1.0,
    rounds: int = ROUNDS,
    time_ours: Callable[[Callable[[], object]], float] = seconds,
) -> float:
    """Median over interleaved rounds of (seconds of theirs) / (seconds of ours) * per; the spread is printed.

    Args:
        time_ours: what says the seconds of ours, where it is a part of the call.
    """
    ours(), theirs()  # the first call allocates
    found = [seconds(theirs) / time_ours(ours) * per for _ in range(rounds)]
    print(f"{name}: {told(found)}", flush=True)
    return float(np.median(found))


def peak_mib() -> float:
    """Peak resident memory of this process alone (VmHWM); ru_maxrss begins with its parent's."""
    return _status_mib("VmHWM")


def resident_mib() -> float:
    """Resident memory of this process now, without the file pages that it maps (RssAnon)."""
    return _status_mib("RssAnon")


def in_own_process(work: Callable[..., Result], *arguments: object) -> Result:
    """Spawned, so that its memory is the work's own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) / 1024
