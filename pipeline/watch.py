"""What a person sees of a running grid: a live table on a terminal, a line per event in a log file."""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from base.screen import screen, text_table
from pipeline.job_state import Job, JobState, log_path, log_tail
from pipeline.jobs import Outcome
from pipeline.wording import clock, figures_in

FINISHED = ("done", "failed", "stopped", "skipped")
FAILED = 3  # exit code: some jobs failed
MOST_ROWS = 20  # of the live table; the rest is a count
STYLES = {"done": "green", "failed": "bold red", "running": "cyan", "stopped": "yellow", "skipped": "yellow"}


class GridView:
    """Shows the states of a grid's jobs as they change. Call it with all states; use it as a context manager."""

    def __init__(self, jobs: Sequence[Job], folder: Path, console: Console | None = None) -> None:
        """
        Args:
            folder: where the jobs' logs are.
        """
        self.jobs, self.folder = list(jobs), folder
        self.console = console or screen(width=None)
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
            passed = f"{clock(time.time() - self.start)} so far"
            self.live.update(Group(self.table(states), Text(f"{self.summary(states)}; {passed}")), refresh=True)
            return
        for name, state in states.items():
            seen = (state.status, len(state.attempts), state.message)
            if seen != self.shown.get(name, ("waiting", len(state.attempts), "")):
                self.console.print(self.line(states, state), soft_wrap=True)
            self.shown[name] = seen

    def line(self, states: Mapping[str, JobState], state: JobState) -> str:
        """One event: "12:03:04 unet/fold0-seed0 done in 61 s on cpu, 3 of 15, about 12 min left"."""
        text = f"{time.strftime('%H:%M:%S')} {state.job} {state.status}"
        if state.status == "running":
            text += f" on {state.device} of {state.host}"
            text += f", attempt {len(state.attempts) + 1}" if state.attempts else ""
        elif state.status in ("waiting", "skipped"):
            return f"{text}: {state.message}" if state.message else text
        elif state.attempts:
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
        left = seconds_left(self.jobs, states)
        return ", ".join(parts) + (f", about {clock(left)} left" if left and not count["stopped"] else "")

    def table(self, states: Mapping[str, JobState]) -> Table:
        """Failed and running jobs first, then those that wait; what is beyond `MOST_ROWS` is a count."""
        order = ["failed", "running", "stopped", "waiting", "skipped", "done"]
        ranked = sorted(states.values(), key=lambda state: order.index(state.status))
        rows = [_row(state, self.folder) for state in ranked[:MOST_ROWS]]
        styles = [STYLES.get(state.status) for state in ranked[:MOST_ROWS]]
        if len(ranked) > MOST_ROWS:
            rows.append([f"and {len(ranked) - MOST_ROWS} more"])
        columns = ("job", "state", "device", "time", "attempt", "epoch", "img/s", "mIoU")
        return text_table(
            "", columns, rows, left=columns[:3], styles=styles, no_wrap=True, box=None, pad_edge=False
        )  # fmt: skip


def seconds_left(jobs: Sequence[Job], states: Mapping[str, JobState]) -> float:
    """Expected seconds until the last job ends: what is not yet done, at the pace of what is, as many at once as now.

    0: nobody knows.
    """
    expected = {job.name: job.cost_s for job in jobs}
    done = [state for state in states.values() if state.status == "done" and state.attempts]
    if not all(expected.values()):
        expected = dict.fromkeys(expected, 1.0 if done else 0.0)  # no costs: all jobs are taken for alike
    planned = sum(expected[state.job] for state in done)
    pace = sum(state.attempts[-1].wall_s for state in done) / planned if planned else 1.0
    left = []
    for state in states.values():
        if state.status not in FINISHED:
            ran = time.time() - state.since if state.status == "running" else 0.0
            left.append(max(expected[state.job] * pace - ran, 0.0))
    side_by_side = max(1, sum(state.status == "running" for state in states.values()))
    return max(sum(left) / side_by_side, max(left)) if left else 0.0


def report(outcome: Outcome, folder: Path) -> int:
    """Say how it ended; the exit code."""
    states = outcome.states.values()
    # What was stopped by hand keeps others from running, too; that is no news.
    told = ("failed", "skipped") if outcome.signal is None else ("failed",)
    failed = [state for state in states if state.status in told]
    for state in failed:
        if state.status == "skipped":
            print(f"\n{state.job} did not run: it {state.message}", file=sys.stderr)
            continue
        print(f"\n{state.job} failed{_how(state)}\n  log: {log_path(folder, state.job)}", file=sys.stderr)
        for line in state.message.splitlines():
            print(f"  | {line}", file=sys.stderr)
    if outcome.signal is not None:
        done = sum(state.status == "done" for state in states)
        print(f"stopped with {done} of {len(states)} jobs done; run the same command again to go on", file=sys.stderr)
        return 128 + outcome.signal
    if failed:
        print(f"{len(failed)} of {len(states)} jobs failed; run the same command to try them again", file=sys.stderr)
    return FAILED if failed else 0


def _how(state: JobState) -> str:
    if not state.attempts:
        return ""
    last = state.attempts[-1]
    return f" with exit code {last.exit_code} at attempt {last.attempt}, {last.note}, after {clock(last.wall_s)}"


def _row(state: JobState, folder: Path) -> list[str]:
    running = state.status == "running"
    seconds = time.time() - state.since if running else sum(attempt.wall_s for attempt in state.attempts)
    attempts = len(state.attempts) + running
    figures = figures_in(log_tail(folder, state.job)) if running else {}
    shown = [figures.get(name, "") for name in ("epoch", "img/s", "mIoU")]
    started = running or state.attempts
    return [state.job, state.status, state.device, clock(seconds) if started else "", str(attempts or ""), *shown]
