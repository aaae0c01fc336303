"""Does the grid waste time, and does it survive what happens to it?

python -m benchmarks.jobs [--json FILE]

makespan_ratio      24 jobs of known length on 4 slots through loky, against the best possible; the median of 3
overhead_s          per job, one after the other, over the bare command; the median of 3
faults_tried        workers, clients and jobs that were killed, and runs that were started twice, on real members
faults_identical    of these, how many belong to runs whose zip has the sha256 of the undisturbed run's
orphans             processes of those runs that were still there 10 seconds after their end
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from base.command import add_json, run, write_figures
from base.files import hash_file, read_json
from config.jobs import Jobs
from pipeline.jobs import run_jobs
from pipeline.supervise import Job

ROOT = Path(__file__).parents[1]
REPEATS = 3
LENGTHS, SLOTS = 24, 4
KILLS = 10
WAIT_S = 1800.0


def sleeper(name: str, seconds: float) -> Job:
    code = f"import time; time.sleep({seconds})"
    return Job(name, ("python", "-I", "-S", "-c", code), cost_s=seconds)


def makespan_ratio(folder: Path, seed: int) -> float:
    """Wall time of 24 jobs of 2 to 6 seconds on 4 slots, over the most that any schedule could do."""
    lengths = [random.Random(seed + i).uniform(2, 6) for i in range(LENGTHS)]
    best = max(sum(lengths) / SLOTS, max(lengths))
    start = time.perf_counter()
    jobs = [sleeper(f"job{i}", length) for i, length in enumerate(lengths)]
    run_jobs(jobs, folder, Jobs(devices="cpu", parallel=SLOTS), LENGTHS)
    return (time.perf_counter() - start) / best


def overhead_s(folder: Path) -> float:
    """Seconds per job that the grid adds to the bare command: 10 jobs, one after the other."""
    jobs = [sleeper(f"job{i}", 0.5) for i in range(10)]
    start = time.perf_counter()
    for job in jobs:
        subprocess.run([sys.executable, *job.command[1:]], check=True)
    bare = time.perf_counter() - start
    start = time.perf_counter()
    run_jobs(jobs, folder, Jobs(devices="cpu", parallel=1), len(jobs))
    return (time.perf_counter() - start - bare) / len(jobs)


class World:
    """A small competition and the runs on it; each has a folder of its own, and all should end with the same zip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        values = {
            "extends": str(ROOT / "configs" / "demo.yaml"),
            "models": [{"name": "unet", "encoder": "resnet18"}],
            "data": {
                "root": str(folder / "data"),
                "generate": {"train_scenes": 6, "test_scenes": 1, "scene_tiles": 3, "tile_px": 64},
            },
            "train": {"epochs": 20, "schedule": {"warmup_epochs": 1}},
            "jobs": {"devices": "cpu", "parallel": 2, "threads": 1, "checkpoint_s": 1, "retries": KILLS + 2},
        }
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(values))

    def start(self, name: str, *overrides: str) -> subprocess.Popen:
        out = self.folder / name
        places = [f"runs_dir={out}/runs", f"zips_dir={out}/zips"]
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                ["bash", "run_cv.sh", str(self.config), *places, *overrides],
                cwd=ROOT,
                env={**os.environ, "FOLDSCAPE_PYTHON": sys.executable, "TMPDIR": str(self.folder)},
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def finish(self, name: str, *overrides: str) -> str:
        """Run it to its end, from wherever it stands; the zip's sha256."""
        if self.start(name, *overrides).wait(WAIT_S):
            raise RuntimeError(f"{name} failed:\n{(self.folder / f'{name}.log').read_text()[-2000:]}")
        return self.zip_hash(name)

    def zip_hash(self, name: str) -> str:
        (path,) = (self.folder / name / "zips").glob("*.zip")
        return hash_file(path)

    def processes(self, name: str, module: str = "") -> dict[int, str]:
        """Living processes of a run, pid -> command line; those of one module, or all."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
                where = f"{self.folder / name}/runs" if name else f"{self.folder}/"
                if where in line and module in line and int(entry.name) != os.getpid():
                    found[int(entry.name)] = line
        return found

    def jobs(self, name: str) -> list[int]:
        """The processes in which members are made, not those that guard them."""
        return [pid for pid, line in self.processes(name, "pipeline.member").items() if "guard.py" not in line]

    def wait_for_training(self, name: str, workers: int = 2) -> None:
        wait_for(lambda: len(list((self.folder / name).glob("runs/*/members/*/*/last.pt"))) >= workers)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing behind, whatever went wrong."""
        for pid in self.processes(""):
            kill(pid)

    def orphans(self, name: str) -> int:
        """Processes of an ended run that are still there after 10 seconds."""
        deadline = time.monotonic() + 10
        while self.processes(name) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = self.processes(name)
        for pid in left:
            kill(pid)
        return len(left)


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
        for pid in world.processes("client", "pipeline.cv"):
            kill(pid)
        grid.wait(WAIT_S)
        return world.finish("client", f"jobs.dask={address}"), 1


def kill_main(world: World) -> tuple[str, int]:
    """The same without Dask."""
    grid = world.start("main")
    world.wait_for_training("main")
    for pid in world.processes("main", "pipeline.cv"):
        kill(pid)
    grid.wait(WAIT_S)
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
    first = world.start("twice")
    world.wait_for_training("twice", workers=1)
    second = world.start("twice")
    if second.wait(WAIT_S) != 2:
        raise RuntimeError("the second of two runs on one folder was not refused")
    told = (world.folder / "twice.log").read_text()
    if "is being worked on by process" not in told:
        raise RuntimeError(f"the second of two runs did not say who holds the folder:\n{told[-2000:]}")
    first.wait(WAIT_S)
    return world.zip_hash("twice"), 1


SCENARIOS = {"worker": kill_worker, "client": kill_client, "main": kill_main, "jobs": kill_jobs, "twice": start_twice}


def faults(folder: Path) -> dict[str, int]:
    figures = {"faults_identical": 0, "faults_tried": 0, "orphans": 0}
    with World(folder) as world:
        start = time.perf_counter()
        undisturbed = world.finish("undisturbed")
        print(f"undisturbed: {time.perf_counter() - start:.0f} s, zip {undisturbed[:12]}", flush=True)
        for name, scenario in SCENARIOS.items():
            start = time.perf_counter()
            found, tried = scenario(world)
            orphans = world.orphans(name)
            same = "the same zip" if found == undisturbed else f"ANOTHER zip, {found[:12]}"
            seconds = time.perf_counter() - start
            print(f"{scenario.__doc__.splitlines()[0]} {seconds:.0f} s, {same}, {orphans} orphans", flush=True)
            figures["faults_tried"] += tried
            figures["faults_identical"] += tried * (found == undisturbed)
            figures["orphans"] += orphans
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    add_json(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TMPDIR"] = name  # slots of our own: other runs on this machine hold its real ones
        tempfile.tempdir = None
        ratios, overheads = [], []
        for repeat in range(REPEATS):
            ratios.append(makespan_ratio(folder / f"makespan{repeat}", seed=100 * repeat))
            overheads.append(overhead_s(folder / f"overhead{repeat}"))
        print(f"makespan over the best possible: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
        print(f"overhead per job: {', '.join(f'{seconds:.3f}' for seconds in overheads)} s", flush=True)
        figures = {
            "makespan_ratio": round(statistics.median(ratios), 3),
            "overhead_s": round(statistics.median(overheads), 3),
        }
        figures |= faults(folder)
    print(figures)
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
