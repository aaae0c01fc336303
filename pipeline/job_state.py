"""A job of the grid, and what is known of it on disk: its state, its attempts, its log."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from base.files import read_json, write_json

TAIL_BYTES = 8192  # of a log that are looked at
TAIL_LINES = 12  # of a failed job's log, for the summary
HEADER = "# attempt "  # begins the part of a log that is of one

Status = Literal["waiting", "running", "done", "failed", "stopped", "skipped"]


@dataclass(frozen=True)
class Job:
    """A command and what the scheduler has to know of it."""

    name: str
    """Also the path of its log and state: unet/fold0-seed0."""
    command: tuple[str, ...]
    """As a person types it; a leading `python` becomes the worker's own interpreter."""
    cost_s: float = 0.0
    """Expected seconds, 0: unknown; the longest job goes first."""
    probe_s: float = 0.0
    """Expected seconds by `pipeline.probe` alone, kept with the state so that later plans know how far off it was."""
    after: tuple[str, ...] = ()
    """Jobs that must be done before this one starts."""
    lock: Path | None = None
    """A lock that the command holds while it works; the job waits until nobody else does."""
    most_parts: int = 1
    """Parts that its batches can be split into at most; see `jobs.shrink_batch`."""


@dataclass
class Attempt:
    """A row of jobs.csv."""

    job: str
    attempt: int
    host: str
    device: str
    started: str
    exit_code: int
    """As the shell has it, but negative for a signal: -9 is a kill."""
    wall_s: float
    peak_mib: float
    """Of the job's largest process."""
    note: str = ""


@dataclass
class JobState:
    """What is known of a job; `state/NAME.json`, written by its supervisor only."""

    job: str
    status: Status = "waiting"
    session: str = ""
    host: str = ""
    device: str = ""
    probe_s: float = 0.0
    """Of the job, when it ran last."""
    since: float = 0.0
    """Of the running attempt, in seconds since 1970."""
    attempts: list[Attempt] = field(default_factory=list)
    """All there ever were, those of earlier sessions too."""
    split_batch: int = 1
    """Parts that the job's batches are split into since CUDA ran out of memory; see `jobs.split_batch`."""
    message: str = ""
    """Why it failed: the last lines of its log; or what it waits for."""

    @classmethod
    def read(cls, folder: Path, job: str) -> "JobState":
        path = state_path(folder, job)
        if not path.exists():
            return cls(job)
        values = read_json(path)
        return cls(**values | {"attempts": [Attempt(**row) for row in values["attempts"]]})

    def write(self, folder: Path) -> None:
        write_json(state_path(folder, self.job), asdict(self))


def state_path(folder: Path, job: str) -> Path:
    return folder / "state" / f"{job}.json"


def log_path(folder: Path, job: str) -> Path:
    return folder / "logs" / f"{job}.log"


def log_tail(folder: Path, job: str, lines: int | None = TAIL_LINES) -> list[str]:
    """The last lines of a job's log, of its newest attempt.

    Args:
        lines: at most; None: all within TAIL_BYTES.
    """
    path = log_path(folder, job)
    if not path.exists():  # about to start
        return []
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    newest = text.rpartition(HEADER)[2]
    said = [line.rstrip() for line in newest.splitlines() if line.strip()]
    return said if lines is None else said[-lines:]
