"""Runs on real members that are killed, or started twice: do they end with the undisturbed run's zip?

The undisturbed run and the one that is started twice are `bash run_cv.sh`; the others begin with its tiles and folds
and have its stages from `pipeline.cv` to the zip. Part of `python -m benchmarks.jobs`.
"""

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from base.files import hash_file, read_json
from benchmarks.machine import ROOT
from tests.tiny import SMALL_UNET

KILLS = 10
MARK = "BENCHMARK_RUN"  # in the environment of all processes of a run; those of a pool name it nowhere else
STAGES = ("pipeline.cv", "ensemble.blend")
MADE_BY_THEM = ("members", "test", "jobs", "jobs.csv", "blend", "oof*", "report*")
WAIT_S = 1800.0


class World:
    """A small competition and the runs on it; each has a folder of its own, and all should end with the same zip."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.orphans = folder, 0
        values = {
            "extends": str(ROOT / "configs" / "demo.yaml"),
            "models": [{"name": "unet", "encoder": "resnet18", "params": SMALL_UNET}],
            "data": {
                "root": str(folder / "data"),
                "generate": {"train_scenes": 6, "test_scenes": 1, "scene_tiles": 3, "tile_px": 64},
            },
            "train": {"epochs": 30, "schedule": {"warmup_epochs": 1}},
            "jobs": {"devices": "cpu", "parallel": 2, "threads": 1, "checkpoint_s": 1, "retries": KILLS + 2},
        }
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(values))

    def start(self, name: str, *overrides: str, whole: bool = False) -> subprocess.Popen:
        """Start a run.

        Args:
            whole: all of run_cv.sh; otherwise from the members to the zip, with the undisturbed run's tiles and folds.
        """
        out = self.folder / name
        words = [f"runs_dir={out}/runs", f"zips_dir={out}/zips", *overrides]
        command = ["bash", "run_cv.sh", str(self.config), *words]
        if not whole:
            stages = [[sys.executable, "-m", stage, "--config", str(self.config), *words] for stage in STAGES]
            command = ["bash", "-c", " && ".join(map(shlex.join, stages))]
            if not out.exists():
                ignored = shutil.ignore_patterns(*MADE_BY_THEM)
                shutil.copytree(self.folder / "undisturbed" / "runs", out / "runs", ignore=ignored)
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ, "FOLDSCAPE_PYTHON": sys.executable, "TMPDIR": str(self.folder), MARK: f"{out}/runs",
                },
                stdout=log,
                stderr=log,
                process_group=0,
            )  # fmt: skip

    def finish(self, name: str, *overrides: str, whole: bool = False) -> str:
        """Run it to its end, from wherever it stands; the zip's sha256."""
        if self.start(name, *overrides, whole=whole).wait(WAIT_S):
            raise RuntimeError(f"{name} failed:\n{(self.folder / f'{name}.log').read_text()[-2000:]}")
        return self.zip_hash(name)

    def zip_hash(self, name: str) -> str:
        (path,) = (self.folder / name / "zips").glob("*.zip")
        return hash_file(path)

    def processes(self, name: str, module: str = "") -> dict[int, str]:
        """Living processes of a run, or of all, pid -> command line; those of one module, or all."""
        found = {}
        where = f"{self.folder / name}/runs" if name else f"{self.folder}/"
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                line, environment = (
                    (entry / what).read_bytes().decode(errors="replace") for what in ("cmdline", "environ")
                )
                marked = any(text.startswith(f"{MARK}={where}") for text in environment.split("\0"))
                if (marked or where in line) and module in line:
                    found[int(entry.name)] = line.replace("\0", " ")
        return found

    def jobs(self, name: str) -> list[int]:
        """The processes in which members are made, not those that guard them."""
        return [pid for pid, line in self.processes(name, "pipeline.member").items() if "guard.py" not in line]

    def kill_main(self, name: str) -> None:
        """Kill the process of `pipeline.cv`, and the shell that waits for it, without a word."""
        for pid in self.processes(name, "pipeline.cv"):
            kill(pid)

    def wait_for_training(self, name: str, workers: int = 2) -> None:
        wait_for(lambda: len(list((self.folder / name).glob("runs/*/members/*/*/last.pt"))) >= workers)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing behind, whatever went wrong."""
        for pid in self.processes(""):
            kill(pid)

    def count_orphans(self, name: str) -> None:
        """Processes of an ended or killed run that are still there after 10 seconds; they are killed."""
        deadline = time.monotonic() + 10
        while self.processes(name) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = self.processes(name)
        for pid, line in left.items():
            print(f"orphan of {name!r}: {line[:150]}")
            kill(pid)
        self.orphans += len(left)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a step of the benchmark never came about")
        time.sleep(0.05)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A Dask scheduler and two workers on the loopback: address, worker processes."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    dask, where = [sys.executable, "-m", "dask"], ["--scheduler-file", str(file)]
    quiet = {"cwd": ROOT, "env": {**os.environ, "TMPDIR": str(folder)}, "stderr": subprocess.DEVNULL}
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    worker = ["worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    processes = [subprocess.Popen([*dask, *part, *where], **quiet) for part in (scheduler, worker, worker)]
    try:
        wait_for(file.exists)
        yield read_json(file)["address"], processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def kill_worker(world: World) -> tuple[str, int]:
    """A Dask worker dies in the middle of a job; what runs on it is made by the other one."""
    with cluster(world.folder) as (address, workers):
        grid = world.start("worker", f"jobs.dask={address}")
        world.wait_for_training("worker")
        workers[0].kill()
        grid.wait(WAIT_S)
        return world.zip_hash("worker"), 1


def kill_client(world: World) -> tuple[str, int]:
    """The process that talks to the Dask scheduler dies, and the same command is given again."""
    with cluster(world.folder) as (address, _):
        grid = world.start("client", f"jobs.dask={address}")
        world.wait_for_training("client")
        world.kill_main("client")
        grid.wait(WAIT_S)
        return world.finish("client", f"jobs.dask={address}"), 1


def kill_main(world: World) -> tuple[str, int]:
    """The same without Dask."""
    grid = world.start("main")
    world.wait_for_training("main")
    world.kill_main("main")
    grid.wait(WAIT_S)
    world.count_orphans("main")  # Dask's workers live on, and with them their jobs, until they miss their client
    return world.finish("main"), 1


def kill_jobs(world: World) -> tuple[str, int]:
    """Ten times, at a random moment, one of the jobs is killed."""
    moments = random.Random(0)
    grid = world.start("jobs")
    world.wait_for_training("jobs", workers=1)
    for _ in range(KILLS):
        wait_for(lambda: world.jobs("jobs") or grid.poll() is not None)
        time.sleep(moments.uniform(0, 4))
        if grid.poll() is not None:
            raise RuntimeError(f"the run ended before it was disturbed {KILLS} times:\n{world.folder}/jobs.log")
        if running := world.jobs("jobs"):
            kill(moments.choice(running))
    grid.wait(WAIT_S)
    return world.zip_hash("jobs"), KILLS


def start_twice(world: World) -> tuple[str, int]:
    """The same command is given again while it runs: one works, the other says who holds the run."""
    first = world.start("twice", whole=True)
    world.wait_for_training("twice", workers=1)
    second = world.start("twice", whole=True)
    if second.wait(WAIT_S) != 2:
        raise RuntimeError("the second of two runs on one folder was not refused")
    told = (world.folder / "twice.log").read_text()
    if "is being worked on by process" not in told:
        raise RuntimeError(f"the second of two runs did not say who holds the folder:\n{told[-2000:]}")
    first.wait(WAIT_S)
    return world.zip_hash("twice"), 1


SCENARIOS = {"worker": kill_worker, "client": kill_client, "main": kill_main, "jobs": kill_jobs, "twice": start_twice}


def count_faults(folder: Path) -> dict[str, int]:
    """Do all of them; the figures."""
    tried = identical = 0
    with World(folder) as world:
        start = time.perf_counter()
        undisturbed = world.finish("undisturbed", whole=True)
        print(f"undisturbed: {time.perf_counter() - start:.0f} s, zip {undisturbed[:12]}", flush=True)
        for name, scenario in SCENARIOS.items():
            start = time.perf_counter()
            found, faults_of_it = scenario(world)
            world.count_orphans(name)
            same = "the same zip" if found == undisturbed else f"ANOTHER zip, {found[:12]}"
            seconds = time.perf_counter() - start
            print(
                f"{scenario.__doc__.splitlines()[0]} {seconds:.0f} s, {same}, {world.orphans} orphans so far",
                flush=True,
            )
            tried += faults_of_it
            identical += faults_of_it * (found == undisturbed)
        return {"faults_identical": identical, "faults_tried": tried, "orphans": world.orphans}
