"""On what a figure was measured: machine, versions, commit. Nothing that names a person, a host or a folder."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "torch", "timm", "segmentation-models-pytorch", "albumentations", "ttach", "numpy", "scipy", "pandas",
    "scikit-learn", "joblib", "numcodecs", "rasterio", "pillow", "deflate",
)  # fmt: skip
# What is measured does not depend on them; and recording a figure changes the first.
NO_CODE = ("benchmarks/results", "docs", "*.md")


def describe_machine() -> dict[str, Any]:
    """CPU model, cores this process may use, GiB of memory, and the names of the GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpus": _gpus(),
    }


def describe_versions() -> dict[str, str]:
    """Of Python and of the packages that carry the work; those that are not there are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def describe_commit() -> dict[str, Any]:
    """The commit, and whether files differ from it; None where the code came without its git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", *(f":!{path}" for path in NO_CODE))
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changed)}


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    ).stdout.strip()


def _cpu_model() -> str:
    """And whether it has units for bf16, of which one model name does not tell."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    amx = any("amx_bf16" in line.split() for line in lines if line.startswith("flags"))
    return next(named, platform.machine()) + (" with AMX" if amx else "")


def _gpus() -> list[str]:
    """As the driver calls them: asked without torch, which takes seconds to import."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
    )
    return asked.stdout.split("\n")[:-1] if asked.returncode == 0 else []
