"""The grid on a real Dask scheduler with two worker processes on the loopback."""

import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import UserError
from base.files import read_json
from config.jobs import Jobs
from pipeline import jobs as jobs_module
from pipeline.job_state import JobState
from pipeline.jobs import run_jobs
from tests.fake_grid import diary, fake_job, finish, has_started, processes_of, result_of, start_grid, wait_for

distributed = pytest.importorskip("distributed")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The scheduler's address and its two workers, each of which runs one job at a time."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # slots of our own, and Dask's scratch space
    dask = [sys.executable, "-m", "dask"]
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    processes = [subprocess.Popen([*dask, "scheduler", *options], **quiet)]
    options = ["--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    processes += [subprocess.Popen([*dask, "worker", *options], **quiet) for _ in range(2)]
    try:
        wait_for(file.exists)
        address = read_json(file)["address"]
        with distributed.Client(address, set_as_default=False, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)  # a busy machine starts them slowly
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_killed_clients_and_workers_cost_time_and_nothing_else(tmp_path, cluster):
    address, workers = cluster
    run = tmp_path / "run"
    keys = {"jobs": 3, "steps": 25, "step_s": 0.1, "devices": "cpu", "parallel": 2, "dask": address}
    first = start_grid(run, **keys)
    wait_for(lambda: has_started(run, "job0", "job1"))
    session = read_json(run / "session.json")["id"]
    first.kill()
    first.communicate()

    second = start_grid(run, **keys)
    wait_for(lambda: read_json(run / "session.json")["id"] != session)
    session = read_json(run / "session.json")["id"]
    wait_for(lambda: any(JobState.read(run, f"job{i}").session == session for i in range(3)))
    workers[0].kill()
    assert finish(second) == 0
    for i in range(3):
        assert (run / "out" / f"job{i}.result").read_text() == result_of(f"job{i}", 25)
        assert [event for event, *_ in diary(run, f"job{i}")].count("start at 0") == 1  # every other attempt went on
    assert processes_of(run) == []


def test_a_worker_that_does_not_see_the_run_says_so(tmp_path, cluster, monkeypatch):
    address, workers = cluster
    workers[1].kill()  # one alone, too, runs its jobs itself and not in our process
    monkeypatch.setattr("pipeline.session.session_path", lambda folder: tmp_path / "elsewhere.json")
    job = fake_job(tmp_path, "job", 1, 0.01)
    with pytest.raises(UserError, match=r"a worker on host .* cannot see .* storage that all workers mount"):
        run_jobs([job], tmp_path / "run", Jobs(devices="cpu", dask=address), members=1)


def test_a_scheduler_that_is_not_there_is_an_error_of_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_module, "ANSWER_S", 0.3)
    with pytest.raises(UserError, match=r"jobs.dask tcp://127.0.0.1:9: no scheduler answers"):
        run_jobs([], tmp_path, Jobs(dask="tcp://127.0.0.1:9"), members=1)
