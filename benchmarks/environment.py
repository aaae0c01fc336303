"""Environments for peers that must not be installed beside Foldscape: made once, sharing what is installed here."""

import subprocess
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

CACHE = Path.home() / ".cache" / "foldscape-benchmarks"


def make_environment(folder: Path, requirements: Sequence[str]) -> Path | None:
    """The python of an environment that has the requirements, or None, with the reason printed, if they cannot be had.

    Args:
        requirements: as pip takes them, "monai==1.6.1".
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        paths = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
        )
        # What is installed here counts as installed there: torch is not fetched a second time.
        Path(paths.stdout.strip(), "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run([python, "-m", "pip", "install", "-q", *requirements], capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(requirements)} cannot be had: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return python
