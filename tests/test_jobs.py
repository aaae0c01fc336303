"""The scheduler with fake members: order, faults, stops, locks, slots. tests/test_jobs_dask.py has the cluster."""

import csv
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from base.errors import UserError
from base.locks import held, is_free, try_lock
from config.jobs import Jobs
from pipeline import slots, supervise
from pipeline.job_state import Job, JobState
from pipeline.jobs import Outcome, read_states, run_jobs, waves, write_attempts
from pipeline.session import Session, session_path
from pipeline.slots import place_here, threads_per_job
from pipeline.stopping import StopRequest
from pipeline.supervise import NO_MEMORY
from pipeline.watch import report
from tests.fake_grid import CPU, diary, fake_job, finish, has_started, processes_of, result_of, start_grid, wait_for


@pytest.fixture(autouse=True)
def own_slots(tmp_path_factory, monkeypatch):
    """Other runs on this machine hold its real slots."""
    monkeypatch.setattr(slots.tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("slots")))


# Order, dependencies, failures


def test_one_failing_job_stops_no_other_and_everything_is_written_down(tmp_path, capsys):
    jobs = [
        fake_job(tmp_path, "short", 2, 0.01),
        fake_job(tmp_path, "long", 8, 0.05),
        fake_job(tmp_path, "crashes", 3, 0.01, "crash"),
        fake_job(tmp_path, "killed", 3, 0.01, "kill"),
        fake_job(tmp_path, "broken", 3, 0.01, "crash-always"),
        fake_job(tmp_path, "refused", 3, 0.01, "refuse-always"),
        fake_job(tmp_path, "mean", 1, 0.01, after=("short", "long")),
        fake_job(tmp_path, "mean of nothing", 1, 0.01, after=("short", "broken")),
    ]
    seen = []
    outcome = run_jobs(jobs, tmp_path, Jobs(**CPU), members=2, watch=lambda states: seen.append(dict(states)))
    statuses = {name: state.status for name, state in outcome.states.items()}
    assert statuses == {
        "short": "done", "long": "done", "crashes": "done", "killed": "done", "broken": "failed", "refused": "failed",
        "mean": "done", "mean of nothing": "skipped",
    }  # fmt: skip
    for name, steps in (("short", 2), ("long", 8), ("crashes", 3), ("killed", 3)):
        assert (tmp_path / "out" / f"{name}.result").read_text() == result_of(name, steps)
    assert [event for event, *_ in diary(tmp_path, "killed")] == ["start at 0", "start at 1", "end"]  # went on
    ended = max(diary(tmp_path, name)[-1][1] for name in ("short", "long"))
    assert diary(tmp_path, "mean")[0][1] > ended
    assert {row[3] for row in diary(tmp_path, "long")} == {str(max(1, slots.joblib.cpu_count() // 2))}
    assert seen[-1] == outcome.states

    write_attempts(tmp_path / "jobs.csv", tmp_path)
    with open(tmp_path / "jobs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    codes = {job: [int(row["exit_code"]) for row in rows if row["job"] == job] for job in statuses}
    assert codes == {
        "short": [0], "long": [0], "crashes": [1, 0], "killed": [-9, 0], "broken": [1, 1], "refused": [2], "mean": [0],
        "mean of nothing": [],
    }  # fmt: skip
    assert all(float(row["wall_s"]) > 0 and float(row["peak_mib"]) > 1 and row["device"] == "cpu" for row in rows)
    assert [row["attempt"] for row in rows if row["job"] == "broken"] == ["1", "2"]

    assert report(outcome, tmp_path) == 3
    told = capsys.readouterr().err
    assert "the cat has stepped on the cable" in told
    assert "this folder is not a data set" in told
    assert "needs broken" in told
    assert "3 of 8 jobs failed" in told

    stopped = replace(outcome, signal=signal.SIGINT)  # as if somebody had pressed Ctrl-C meanwhile
    assert report(stopped, tmp_path) == 128 + signal.SIGINT
    told = capsys.readouterr().err
    assert "this folder is not a data set" in told
    assert "did not run" not in told
    assert "stopped with 5 of 8 jobs done; run the same command again" in told


def test_the_longest_job_goes_first(tmp_path):
    jobs = [fake_job(tmp_path, f"job{steps}", steps, 0.02) for steps in (2, 9, 4, 7)]
    run_jobs(jobs, tmp_path, Jobs(devices="cpu", parallel=1), members=4)
    begun = sorted((diary(tmp_path, job.name)[0][1], job.name) for job in jobs)
    assert [name for _, name in begun] == ["job9", "job7", "job4", "job2"]


def test_waves_respect_what_jobs_need_and_refuse_a_circle():
    a, b, c = Job("a", ()), Job("b", (), after=("a",)), Job("c", (), after=("a", "b"))
    assert waves([c, b, a]) == [[a], [b], [c]]
    with pytest.raises(ValueError, match="wait for each other"):
        waves([Job("a", (), after=("b",)), Job("b", (), after=("a",))])


def test_an_unknown_backend_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"'ray'.*loky"):
        run_jobs([], tmp_path, Jobs(backend="ray"), members=1)


@pytest.mark.parametrize("backend", ["threading", "multiprocessing", "sequential"])
def test_any_backend_of_joblib_runs_the_grid(tmp_path, backend):
    jobs = [fake_job(tmp_path, f"job{i}", 2, 0.01) for i in range(3)]
    outcome = run_jobs(jobs, tmp_path, Jobs(backend=backend, **CPU), members=3)
    assert [state.status for state in outcome.states.values()] == ["done"] * 3


@pytest.mark.parametrize(("shrink", "status"), [(True, "done"), (False, "failed")])
def test_batches_are_split_when_cuda_runs_out_of_memory_and_only_if_that_is_allowed(tmp_path, shrink, status):
    job = fake_job(tmp_path, "job", 4, 0.01, "memory")
    settings = Jobs(devices="cpu", parallel=1, retries=2, shrink_batch=shrink)
    state = run_jobs([job], tmp_path, settings, members=1).states["job"]
    assert state.status == status
    notes = [attempt.note for attempt in state.attempts]
    if shrink:
        told = "CUDA ran out of memory; goes on with batches in"
        assert notes == [f"{told} 2 parts", f"{told} 4 parts", ""]
        assert "jobs.split_batch=4" in (tmp_path / "logs" / "job.log").read_text()
    else:
        assert notes == ["CUDA ran out of memory"] * 3
        assert "split_batch" not in (tmp_path / "logs" / "job.log").read_text()


def test_batches_are_split_no_further_than_they_can_be(tmp_path):
    """A job that always runs out of memory, over two sessions."""
    words = "import sys; sys.exit('torch.OutOfMemoryError: CUDA out of memory')"
    job = Job("job", ("python", "-S", "-c", words), most_parts=6)
    settings = Jobs(devices="cpu", parallel=1, retries=2, shrink_batch=True)
    for _ in range(2):
        state = run_jobs([job], tmp_path, settings, members=1).states["job"]
    told = "CUDA ran out of memory; goes on with batches in"
    again = "CUDA ran out of memory"
    assert [attempt.note for attempt in state.attempts] == [*(f"{told} {n} parts" for n in (2, 4, 6)), *[again] * 3]
    assert state.split_batch == 6


@pytest.mark.parametrize(
    ("code", "line", "note"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", NO_MEMORY),
        (1, "RuntimeError: CUDA error: out of memory", NO_MEMORY),
        (1, "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", NO_MEMORY),
        (1, "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", NO_MEMORY),
        (1, "RuntimeError: CUDA error: an illegal memory access was encountered", "crashed; see its log"),
        (-9, "CUDA out of memory", "killed; most often the machine ran out of memory"),
        (143, "", "stopped"),
    ],
)
def test_what_an_exit_code_means(code, line, note):
    assert supervise._note(code, ["Traceback", line]) == note


# Stopping and dying


def test_a_signal_stops_at_a_step_boundary_and_the_next_run_ends_with_the_same_bytes(tmp_path):
    keys = {"jobs": 3, "steps": 12, "step_s": 0.1, **CPU}
    grid = start_grid(tmp_path, **keys)
    wait_for(lambda: has_started(tmp_path, "job0", "job1"))
    grid.send_signal(signal.SIGINT)
    _, told = grid.communicate(timeout=60)
    assert grid.returncode == 128 + signal.SIGINT, told
    assert "run the same command again" in told
    assert diary(tmp_path, "job0")[-1][0].startswith("stop at")
    assert not (tmp_path / "out" / "job2.diary").exists()
    assert processes_of(tmp_path) == []

    grid = start_grid(tmp_path, **keys)
    assert finish(grid) == 0
    assert [(tmp_path / "out" / f"job{i}.result").read_text() for i in range(3)] == [
        result_of(f"job{i}", 12) for i in range(3)
    ]
    assert not diary(tmp_path, "job0")[2][0].startswith("start at 0")


def test_a_second_signal_kills_but_not_a_sigterm_that_is_told_twice(tmp_path):
    """`timeout` and batch systems tell every process, and run_cv.sh passes on what it is told."""
    grid = start_grid(tmp_path, jobs=2, steps=2, step_s=30, backend="threading", **CPU)
    wait_for(lambda: (tmp_path / "out" / "job1.diary").exists() and (tmp_path / "out" / "job0.diary").exists())
    grid.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    grid.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert grid.poll() is None  # the steps take 30 seconds
    assert json.loads(session_path(tmp_path).read_text())["order"] == "stop"
    grid.send_signal(signal.SIGINT)
    grid.communicate(timeout=60)
    assert grid.returncode == 128 + signal.SIGINT
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(("jobs", "parallel"), [(2, 3), (6, 2)])  # a worker is idle, or has its next job already
def test_a_killed_main_process_leaves_no_orphan_and_its_locks_are_free(tmp_path, jobs, parallel):
    grid = start_grid(tmp_path, jobs=jobs, steps=100, step_s=0.1, **CPU | {"parallel": parallel})
    wait_for(lambda: has_started(tmp_path, "job0", "job1"))
    assert not is_free(tmp_path / "run.lock")
    with (
        pytest.raises(UserError, match=f"is being worked on by process {grid.pid} on host .* since 20"),
        held(tmp_path / "run.lock", "run"),
    ):
        pass
    grid.kill()
    grid.wait()  # not for its output: whoever is left would hold the pipes open
    wait_for(lambda: processes_of(tmp_path) == [], seconds=20)
    grid.communicate()
    assert is_free(tmp_path / "run.lock")
    assert diary(tmp_path, "job0")[-1][0].startswith("stop at")  # its checkpoint is written
    assert len(list((tmp_path / "out").glob("*.diary"))) == 2  # and no other was begun
    grid = start_grid(tmp_path, jobs=2, steps=1, step_s=0.1, **CPU)
    assert finish(grid) == 0


def test_jobs_of_a_killed_worker_are_sent_out_again(tmp_path):
    grid = start_grid(tmp_path, jobs=2, steps=15, step_s=0.1, **CPU)
    wait_for(lambda: has_started(tmp_path, "job0", "job1"))
    os.kill(_parent(_parent(diary(tmp_path, "job0")[0][2])), signal.SIGKILL)  # job <- guard <- loky's worker
    assert finish(grid) == 0
    assert [(tmp_path / "out" / f"job{i}.result").read_text() for i in range(2)] == [
        result_of(f"job{i}", 15) for i in range(2)
    ]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_killed_guard_takes_its_job_along(tmp_path):
    grid = start_grid(tmp_path, jobs=1, steps=4, step_s=0.3, backend="threading", **CPU)
    wait_for(lambda: has_started(tmp_path, "job0"))
    job = diary(tmp_path, "job0")[0][2]
    os.kill(_parent(job), signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{job}").exists())
    assert finish(grid) == 0  # tried again
    assert [event.split()[0] for event, *_ in diary(tmp_path, "job0")] == ["start", "start", "end"]
    assert (tmp_path / "out" / "job0.result").read_text() == result_of("job0", 4)


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_ends_with_its_pool_whatever_handler_it_was_forked_with(busy):
    script = [
        "import os, signal, time; from pipeline import supervise",
        "signal.signal(signal.SIGTERM, lambda number, frame: None)",
        "supervise.obey(os.getppid()); print('ready', flush=True)",
        *["supervise._in_hand.add('job'); time.sleep(1); print('result', flush=True)"] * busy,
        "supervise._in_hand.discard('job'); time.sleep(60)",
    ]
    worker = subprocess.Popen([sys.executable, "-c", "\n".join(script)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "ready\n"
    time.sleep(0.2)
    worker.send_signal(signal.SIGTERM)
    told, _ = worker.communicate(timeout=20)
    assert (worker.returncode, told) == (0, "result\n" if busy else "")


def test_a_forked_pool_leaves_the_order_of_the_session_alone(tmp_path):
    jobs = [fake_job(tmp_path, f"job{i}", 2, 0.01) for i in range(3)]
    jobs += [fake_job(tmp_path, f"mean{i}", 1, 0.01, after=(f"job{i}",)) for i in range(3)]
    outcome = run_jobs(jobs, tmp_path, Jobs(backend="multiprocessing", **CPU), members=3)
    assert [state.status for state in outcome.states.values()] == ["done"] * 6


def test_a_stop_request_listens_only_within_its_block(capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert stop.exit_code == 143
        os.kill(os.getpid(), signal.SIGTERM)  # told twice, by the batch system and by the guard: we live
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert "SIGTERM" in capsys.readouterr().err


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_ask(second):
    words = ["import time, pipeline.stopping as stopping", "stopping.SAME_S = 0.2", "with stopping.StopRequest():",
             "    print('ready', flush=True)", "    while True: time.sleep(0.01)"]  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", "\n".join(words)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(timeout=20) == -second


# Locks, slots, sessions


def test_a_lock_is_held_once_and_says_by_whom(tmp_path):
    path = tmp_path / "deep" / "x.lock"
    with held(path, "run 'x'"):
        assert try_lock(path) is None
        assert not is_free(path)
        with (
            pytest.raises(UserError, match=f"run 'x' is being worked on by process {os.getpid()} on host"),
            held(path, "run 'x'"),
        ):
            pass
    assert is_free(path)


def test_who_asks_for_a_lock_is_in_nobodys_way(tmp_path, monkeypatch):
    asking = try_lock(tmp_path / "x.lock")  # as is_free has it, just now
    monkeypatch.setattr("base.locks.time.sleep", lambda seconds: asking.release())
    with held(tmp_path / "x.lock", "run 'x'"):
        assert not is_free(tmp_path / "x.lock")


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(UserError, match="has no file locks"):
        try_lock(tmp_path / "x.lock")


def test_two_runs_on_one_machine_share_its_slots(tmp_path):
    first = start_grid(tmp_path / "a", jobs=2, steps=5, step_s=0.05, devices="cpu", parallel=1)
    second = start_grid(tmp_path / "b", jobs=2, steps=5, step_s=0.05, devices="cpu", parallel=1)
    assert (finish(first), finish(second)) == (0, 0)
    spans = []
    for run in ("a", "b"):
        for i in range(2):
            events = diary(tmp_path / run, f"job{i}")
            spans.append((events[0][1], events[-1][1]))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_job_waits_for_whoever_works_on_its_member(tmp_path):
    lock = tmp_path / "member.lock"
    job = fake_job(tmp_path, "job", 1, 0.01)
    job = Job(job.name, job.command, lock=lock)
    seen = []

    def watch(states):
        seen.append(states["job"].status)
        if seen == ["waiting"] * 2:
            other.release()

    other = try_lock(lock)
    outcome = run_jobs([job], tmp_path, Jobs(**CPU), members=1, watch=watch)
    assert seen[:2] == ["waiting", "waiting"]
    assert outcome.states["job"].status == "done"


@pytest.fixture
def three_gpus(monkeypatch):
    monkeypatch.setattr(slots, "gpus", lambda: ["uuid-a", "uuid-b", "uuid-c"])
    monkeypatch.setattr(slots.joblib, "cpu_count", lambda: 16)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_every_gpu_has_its_slots_and_the_first_jobs_spread(three_gpus):
    place = place_here(Jobs(per_device=2), members=30)
    assert [slot.device for slot in place.slots] == ["cuda:0", "cuda:1", "cuda:2"] * 2
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in place.slots] == ["0", "1", "2"] * 2
    assert len({slot.lock for slot in place.slots}) == 6
    assert all("uuid-" in slot.lock.name for slot in place.slots)
    assert {slot.settings for slot in place.slots} == {("jobs.devices=auto", "jobs.threads=2")}


def test_chosen_gpus_are_numbered_as_this_process_sees_them(three_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 3,7")
    place = place_here(Jobs(devices=["cuda:2", "cuda:1"]), members=30)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in place.slots] == ["7", "3"]
    assert ["uuid-c" in slot.lock.name for slot in place.slots] == [True, False]
    with pytest.raises(UserError, match=r"no cuda:3 here; this machine has 3 GPUs"):
        place_here(Jobs(devices="cuda:3"), members=30)


def test_a_failed_gpu_is_taken_again_only_when_no_other_is_free(three_gpus):
    place = place_here(Jobs(devices=["cuda:0", "cuda:1"]), members=4)
    with place.free_slot(avoid="cuda:0") as first, place.free_slot(avoid="cuda:0") as second:
        assert (first.device, second.device) == ("cuda:1", "cuda:0")
        with place.free_slot() as third:
            assert third is None


@pytest.mark.parametrize(("members", "threads"), [(1, 16), (3, 5), (8, 2), (16, 1), (200, 1)])
def test_threads_depend_on_the_machine_and_the_experiment_alone(monkeypatch, members, threads):
    monkeypatch.setattr(slots.joblib, "cpu_count", lambda: 16)
    for parallel in (0, 1, 5):  # however many happen to run: other threads would be other last bits
        assert threads_per_job(Jobs(parallel=parallel), members, gpu_count=0) == threads
    assert threads_per_job(Jobs(threads=7), members, gpu_count=0) == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"devices": ["cuda:0", "cuda:0"]}, "given twice"),
        ({"devices": ["cpu", "cuda:0"]}, "cpu stands alone"),
        ({"devices": "gpu"}, "devices"),
        ({"backend": "dask"}, "scheduler's address"),
        ({"dask": "host:8786"}, "dask"),
    ],
)
def test_machines_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Jobs(**values)


def test_a_supervisor_hears_its_own_main_process_only(tmp_path):
    session = Session(tmp_path)
    listener = session.listener()
    with pytest.raises(UserError, match=r"cannot see .* storage that all workers mount"):
        listener.refuse_other_storage()
    session.beat()
    listener.refuse_other_storage()
    assert listener.order() == "go"
    session.ask("stop")
    assert listener.order() == "stop"
    Session(tmp_path).beat()  # the run was started again, after its main process was killed
    assert listener.order() == "lost"


def test_a_silent_main_process_is_lost(tmp_path, monkeypatch):
    session = Session(tmp_path)
    session.beat()
    listener = session.listener()
    assert listener.order() == "go"
    now = time.monotonic()
    monkeypatch.setattr("pipeline.session.time.monotonic", lambda: now + 59)
    assert listener.order() == "go"
    monkeypatch.setattr("pipeline.session.time.monotonic", lambda: now + 61)
    assert listener.order() == "lost"


def test_a_first_look_that_fails_is_no_loss(tmp_path, monkeypatch):
    listener = Session(tmp_path).listener()
    monkeypatch.setattr("pipeline.session.time.monotonic", lambda: 1000.0)
    assert listener.order() == "go"  # nothing there yet, as a shared file system may say while a file is replaced
    monkeypatch.setattr("pipeline.session.time.monotonic", lambda: 1061.0)
    assert listener.order() == "lost"


def test_jobs_that_lost_sight_of_the_main_process_are_sent_out_again(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.session.LOST_S", 1.5)
    beat, beats = Session.beat, itertools.count()
    monkeypatch.setattr(Session, "beat", lambda self: None if 0 < next(beats) < 4 else beat(self))  # silent for 4 s
    jobs = [fake_job(tmp_path, f"job{i}", 20, 0.1) for i in range(2)]
    outcome = run_jobs(jobs, tmp_path, Jobs(backend="threading", **CPU | {"retries": 5}), members=2)
    for job in jobs:
        state = outcome.states[job.name]
        assert state.status == "done"
        assert {attempt.exit_code for attempt in state.attempts} == {143, 0}
        assert (tmp_path / "out" / f"{job.name}.result").read_text() == result_of(job.name, 20)
    assert report(outcome, tmp_path) == 0


def test_a_watcher_that_fails_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.session.LOST_S", 1.5)

    def watch(states):
        if states["job"].status != "done":
            raise ValueError("half a file")

    job = fake_job(tmp_path, "job", 40, 0.1)
    outcome = run_jobs([job], tmp_path, Jobs(backend="threading", **CPU), members=1, watch=watch)
    assert [attempt.exit_code for attempt in outcome.states["job"].attempts] == [0]


def test_what_an_earlier_session_knew_is_not_taken_for_now(tmp_path):
    job = Job("a/b", ())
    JobState("a/b", "done", session="earlier").write(tmp_path)
    session = Session(tmp_path)
    assert read_states(tmp_path, session.id, [job])["a/b"].status == "waiting"
    assert report(Outcome(read_states(tmp_path, session.id, [job]), None), tmp_path) == 0
