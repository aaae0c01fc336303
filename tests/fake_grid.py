"""A grid of fake members in a process of its own, to be killed: `python -m tests.fake_grid RUN KEY=VALUE...`.

Keys: jobs (how many), steps, step_s, and those of the section `jobs`. Exit codes as those of pipeline.cv.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from base.command import run
from base.locks import held
from config.jobs import Jobs
from pipeline.job_state import Job
from pipeline.jobs import run_jobs
from pipeline.watch import GridView, report

SCRIPT = Path(__file__).with_name("fake_member.py")
MARK = "FAKE_GRID_RUN"  # in the environment of all processes of a grid
CPU = {"devices": "cpu", "parallel": 2, "retries": 1}


def fake_job(folder: Path, name: str, steps: int, step_s: float, *fault: str, after: tuple[str, ...] = ()) -> Job:
    command = ("python", "-S", str(SCRIPT), str(folder / "out"), name, str(steps), str(step_s), *fault)
    return Job(name, command, cost_s=steps * step_s, after=after, most_parts=6)


def result_of(name: str, steps: int) -> str:
    value = name
    for _ in range(steps):
        value = hashlib.sha256(value.encode()).hexdigest()
    return value


def diary(run: Path, name: str) -> list[list]:
    return [json.loads(line) for line in (run / "out" / f"{name}.diary").read_text().splitlines()]


def start_grid(run: Path, **keys: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.fake_grid", str(run), *(f"{key}={value}" for key, value in keys.items())]
    marked = {**os.environ, MARK: str(run)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=SCRIPT.parents[1], env=marked, **pipes)


def finish(grid: subprocess.Popen) -> int:
    """Its exit code."""
    grid.communicate(timeout=90)
    return grid.returncode


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def processes_of(run: Path) -> list[str]:
    """Command lines of living processes that work on a run, or were started for it and name it nowhere."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line, environment = (
                    (entry / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")
                )
            except OSError:
                continue
            if str(run) in line or f"{MARK}={run}" in environment.split("\0"):
                found.append(line.replace("\0", " "))
    return found


def has_started(run: Path, *names: str) -> bool:
    return all((run / "out" / f"{name}.last").exists() for name in names)


def main() -> int:
    folder = Path(sys.argv[1])
    values = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in sys.argv[2:])}
    count, steps, step_s = values.pop("jobs"), values.pop("steps"), values.pop("step_s")
    jobs = [fake_job(folder, f"job{i}", steps, step_s) for i in range(count)]
    with held(folder / "run.lock", f"run {folder.name!r}"), GridView(jobs, folder) as view:
        outcome = run_jobs(jobs, folder, Jobs(**values), count, view)
    return report(outcome, folder)


if __name__ == "__main__":
    run(main)
