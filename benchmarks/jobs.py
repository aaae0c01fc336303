"""Does the grid waste time, and does it survive what happens to it?

python -m benchmarks.jobs [--json FILE]

makespan_ratio      24 jobs of known length on 4 slots through loky, against the best possible; the median of 3
overhead_s          per job, one after the other, over the bare command; the median of 3
faults_tried        workers, clients and jobs that were killed, and runs that were started twice, on real members
faults_identical    of these, how many belong to runs whose zip has the sha256 of the undisturbed run's
orphans             processes of those runs that were still there 10 seconds after their end or their killing
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from base.command import add_json, plain_parser, run, write_figures
from benchmarks.faults import count_faults
from config.jobs import Jobs
from pipeline.job_state import Job
from pipeline.jobs import run_jobs

REPEATS = 3
LENGTHS, SLOTS = 24, 4


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


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.jobs", __doc__)
    add_json(parser)
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended all the same
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
        figures |= count_faults(folder)
    print(figures)
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
