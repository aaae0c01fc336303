"""Figures of jobs in words: seconds by the clock, and what the lines of a log said last."""

import re
from collections.abc import Sequence


def clock(seconds: float) -> str:
    """ "42 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def figures_in(lines: Sequence[str]) -> dict[str, str]:
    """The newest epoch, img/s and mIoU in the lines that `pipeline.progress` leaves in a log."""
    patterns = {"epoch": r"\bepoch (\d+/\d+)", "img/s": r"\b(\d+) img/s", "mIoU": r"\bmIoU (\d\.\d+)"}
    found = {name: re.findall(pattern, "\n".join(lines)) for name, pattern in patterns.items()}
    return {name: values[-1] for name, values in found.items() if values}
