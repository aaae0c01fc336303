"""What a person sees of a running grid: a live table on a terminal, a line per event in a log file."""

import csv
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.supervise import Job, JobState

FINISHED = ("done", "failed", "stopped", "skipped")
MOST_ROWS = 20  # of the live table; the rest is a count
STYLES = {"done": "green", "failed": "bold red", "running": "cyan", "stopped": "yellow", "skipped": "yellow"}


class GridView:
    """Shows the states of a grid's jobs as they change. Call it with all states; use it as a context manager."""

    def __init__(self, jobs: Sequence[Job], slots: int, progress: Mapping[str, Path], console: Console | None = None):
        """
        Args:
            slots: jobs that run side by side, for the time that is left.
            progress: of some jobs, the csv with a row per epoch that they write.
        """
        self.jobs, self.slots, self.progress = list(jobs), slots, progress
        self.console = console or Console()
        self.start = time.time()
        self.shown: dict[str, tuple] = {}
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> "GridView":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, states: Mapping[str, JobState]) -> None:
        if self.live:
            self.live.update(self.table(states), refresh=True)
            return
        for name, state in states.items():
            seen = (state.status, len(state.attempts))
            if seen != self.shown.get(name, ("waiting", seen[1])):
                self.console.print(self.line(states, state), soft_wrap=True, highlight=False, markup=False)
            self.shown[name] = seen

    def line(self, states: Mapping[str, JobState], state: JobState) -> str:
        """One event: "12:03:04 unet/fold0-seed0 done in 61 s on cpu, 3 of 15, about 12 min left"."""
        text = f"{time.strftime('%H:%M:%S')} {state.job} {state.status}"
        if state.status == "running":
            text += f" on {state.device} ({state.host})"
        elif state.attempts and state.status != "skipped":
            last = state.attempts[-1]
            text += f" after {clock(last.wall_s)} on {last.device}" + (f": {last.note}" if last.note else "")
        if state.status in FINISHED:
            text += f"; {self.summary(states)}"
        return text

    def summary(self, states: Mapping[str, JobState]) -> str:
        """ "3 of 15 done, 1 failed, about 12 min left"."""
        count = Counter(state.status for state in states.values())
        parts = [f"{count['done']} of {len(states)} done"]
        parts += [f"{count[status]} {status}" for status in ("running", "waiting", "failed", "stopped", "skipped")
                  if count[status]]  # fmt: skip
        left = seconds_left(self.jobs, states, self.slots)
        return ", ".join(parts) + (f", about {clock(left)} left" if left else "")

    def table(self, states: Mapping[str, JobState]) -> Group:
        """Running and failed jobs first, then those that wait; finished ones are a count."""
        table = Table(box=None, pad_edge=False)
        for column in ("job", "state", "device", "time", "attempt", "epoch", "img/s", "mIoU"):
            table.add_column(column, justify="left" if column in ("job", "state", "device") else "right", no_wrap=True)
        order = ["failed", "running", "stopped", "waiting", "skipped", "done"]
        ranked = sorted(states.values(), key=lambda state: order.index(state.status))
        for state in ranked[:MOST_ROWS]:
            table.add_row(*_row(state, self.progress.get(state.job)), style=STYLES.get(state.status))
        more = len(ranked) - MOST_ROWS
        tail = [Text(f"and {more} more")] if more > 0 else []
        head = f"{self.summary(states)}; {clock(time.time() - self.start)} so far"
        return Group(table, *tail, Text(head))


def seconds_left(jobs: Sequence[Job], states: Mapping[str, JobState], slots: int) -> float:
    """Expected seconds until the last job ends: what is not yet done, at the pace of what is, over all slots."""
    expected = {job.name: job.cost_s for job in jobs}
    done = [state for state in states.values() if state.status == "done" and state.attempts]
    planned = sum(expected[state.job] for state in done)
    pace = sum(state.attempts[-1].wall_s for state in done) / planned if planned else 1.0
    left = []
    for state in states.values():
        if state.status in FINISHED:
            continue
        ran = time.time() - state.since if state.status == "running" else 0.0
        left.append(max(expected[state.job] * pace - ran, 1.0))
    return max(sum(left) / slots, max(left)) if left else 0.0


def clock(seconds: float) -> str:
    """ "42 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _row(state: JobState, progress: Path | None) -> list[str]:
    if state.status == "running":
        ran = clock(time.time() - state.since)
    else:
        ran = clock(sum(a.wall_s for a in state.attempts)) if state.attempts else ""
    attempts = len(state.attempts) + (state.status == "running")
    last = _last_row(progress) if progress else {}
    shown = [last.get("epoch", ""), _short(last.get("img_s")), _short(last.get("miou"), 4)]
    return [state.job, state.status, state.device, ran, str(attempts or ""), *shown]


def _last_row(path: Path) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return {}
    return rows[-1] if rows else {}


def _short(value: str | None, digits: int = 0) -> str:
    return f"{float(value):.{digits}f}" if value else ""
