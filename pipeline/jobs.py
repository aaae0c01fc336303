"""Many jobs over all devices through joblib: longest first, nothing lost when one, or a worker, or we ourselves fail.

A joblib task supervises one subprocess (`pipeline/supervise.py`), so a backend only has to spread functions over
processes or machines: loky here, Dask on a cluster, whatever else is registered.
"""

import contextlib
import csv
import io
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import FrameType

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from joblib.parallel import BACKENDS

from base.errors import UserError, listed
from base.files import read_json, write_json, write_text
from config.jobs import Jobs
from pipeline.job_state import Attempt, Job, JobState
from pipeline.session import BEAT_S, Session
from pipeline.slots import place_here
from pipeline.stopping import SAME_S
from pipeline.supervise import Rules, obey, supervise


@dataclass(frozen=True)
class Outcome:
    """What became of a grid."""

    states: dict[str, JobState]
    """By job name."""
    signal: int | None
    """What stopped it: SIGINT or SIGTERM; None: nothing did."""


ANSWER_S = 30.0  # for a scheduler, and for its first worker
UNENDED = ("waiting", "running", "stopped")  # while nobody has asked for a stop

Watch = Callable[[dict[str, JobState]], None]
"""Shown the state of every job every second or two, and once more at the end."""


def run_jobs(
    jobs: Sequence[Job], folder: Path, settings: Jobs, members: int, watch: Watch = lambda states: None
) -> Outcome:
    """Run all jobs, each after those it needs.

    The caller holds the lock of the run: two of these on one folder would stop each other.

    Args:
        folder: for logs, states and the session, on storage that all workers share.
        members: of the whole experiment; bounds the threads of a job (see `place_here`).

    Raises:
        UserError: a backend that is not there, a scheduler that does not answer, a worker without the storage.
    """
    session = Session(folder.absolute())
    rules = Rules(session.listener(), Path.cwd(), settings, members)
    session.beat()
    known = [{"name": job.name, "cost_s": job.cost_s} for job in jobs]
    write_json(grid_path(folder), {"session": session.id, "jobs": known})
    with _stopping(session), _backend(settings, members) as backend, _beating(session, jobs, watch) as states:
        for wave in waves(jobs):
            ready = [job for job in wave if all(states()[name].status == "done" for name in job.after)]
            for job in wave:
                if job not in ready:
                    _skip(session, job, states())
            _run_wave(sorted(ready, key=lambda job: -job.cost_s), session, rules, backend, states)
    return Outcome(read_states(session.folder, session.id, jobs), session.signal)


def waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in layers: each needs only jobs of earlier ones. joblib knows no dependencies; ours are two layers deep."""
    depth: dict[str, int] = {}
    left = list(jobs)
    while left:
        ready = [job for job in left if all(name in depth for name in job.after)]
        if not ready:
            raise ValueError(f"jobs wait for each other, or for one that is not there: {[job.name for job in left]}")
        for job in ready:
            depth[job.name] = 1 + max((depth[name] for name in job.after), default=-1)
        left = [job for job in left if job.name not in depth]
    return [[job for job in jobs if depth[job.name] == level] for level in range(max(depth.values(), default=-1) + 1)]


def read_states(folder: Path, session: str, jobs: Sequence[Job]) -> dict[str, JobState]:
    """The state of each job in a session; one that only an earlier session knew is waiting."""
    states = {}
    for job in jobs:
        state = JobState.read(folder, job.name)
        states[job.name] = state if state.session == session else JobState(job.name, attempts=state.attempts)
    return states


def grid_path(folder: Path) -> Path:
    """Where it is said which jobs the newest session has; none before the first."""
    return folder / "grid.json"


def read_grid(folder: Path) -> tuple[list[Job], str]:
    """The newest session's jobs without their commands, and its id."""
    grid = read_json(grid_path(folder))
    return [Job(each["name"], (), each["cost_s"]) for each in grid["jobs"]], grid["session"]


def write_attempts(path: Path, folder: Path) -> None:
    """`jobs.csv`: a row per ended attempt of every job that the folder knows, in the order in which they began."""
    names = [p.relative_to(folder / "state").with_suffix("").as_posix() for p in (folder / "state").rglob("*.json")]
    rows = [attempt for name in names for attempt in JobState.read(folder, name).attempts]
    rows.sort(key=lambda row: (row.started, row.job))
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Attempt)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    if not path.exists() or path.read_text(encoding="utf-8") != text.getvalue():
        write_text(path, text.getvalue())


def _run_wave(jobs: list[Job], session: Session, rules: Rules, backend: "Backend", states: Callable) -> None:
    """Run jobs that need nothing any more. Those whose worker died, or lost sight of us, are sent out again."""
    for _ in range(1 + rules.jobs.retries):
        left = [job for job in jobs if states()[job.name].status in UNENDED]
        if not left or session.order != "go":
            return
        with contextlib.suppress(*backend.worker_deaths):
            # All at once, one by one: a queue that is longest first, without batches that would undo it.
            many = Parallel(n_jobs=backend.n_jobs, batch_size=1, pre_dispatch="all")
            sent = replace(rules, listener=session.listener())  # an older one may have lost sight of us
            many(delayed(supervise)(job, sent) for job in left)
    for job in jobs:
        state = states()[job.name]
        if session.order == "go" and state.status in UNENDED:
            state.status, state.session = "failed", session.id
            state.message = (
                f"{1 + rules.jobs.retries} times its worker died, or could not read what this process writes to "
                f"{session.folder}; see the memory and the log of the worker"
            )
            state.write(session.folder)


@dataclass(frozen=True)
class Backend:
    """A joblib backend that is set up."""

    n_jobs: int
    worker_deaths: tuple[type[Exception], ...]
    """What it raises when it loses a worker."""


@contextlib.contextmanager
def _backend(settings: Jobs, members: int) -> Iterator[Backend]:
    """Within the block, `Parallel` runs where `jobs.backend` and `jobs.dask` say."""
    name = settings.joblib_backend
    if name == "dask":
        with _dask(settings.dask) as backend:
            yield backend
        return
    if name not in BACKENDS:
        raise UserError(f"jobs.backend {name!r}: joblib knows only {listed(BACKENDS)}; others must be registered")
    processes = name in ("loky", "multiprocessing")  # the others work in our threads, or on their own
    own = {"initializer": obey, "initargs": (os.getpid(),)} if processes else {}
    with parallel_config(backend=name, **own):
        yield Backend(len(place_here(settings, members).slots), (BrokenProcessPool,))


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Backend]:
    """A client of a Dask scheduler, and its workers as joblib's backend."""
    try:
        from distributed import Client, KilledWorker
        from distributed.client import FutureCancelledError
        from joblib._dask import DaskDistributedBackend
    except ImportError:
        raise UserError("jobs.dask needs Dask. Run: pip install -r requirements-dask.txt") from None

    class Cluster(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            # Where this is 1 joblib calls the functions here and now, in a process that may have no GPU. It bounds
            # nothing else: all tasks are handed in at once, and the scheduler knows its workers.
            return max(2, super().effective_n_jobs(n_jobs))

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says in pages we say in a line
    try:
        client = Client(address, set_as_default=False, timeout=ANSWER_S)
    except OSError as error:
        raise UserError(
            f"jobs.dask {address}: no scheduler answers ({error}); see docs/cluster.md for how to start one"
        ) from None

    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWER_S)
        except TimeoutError:
            raise UserError(f"jobs.dask {address}: the scheduler has no workers; see docs/cluster.md") from None
        try:
            with parallel_config(backend=Cluster(client=client)):
                yield Backend(-1, (BrokenProcessPool, KilledWorker))
        except FutureCancelledError:
            raise UserError(
                f"jobs.dask {address}: the scheduler is gone. Start it again, and run the same command to go on"
            ) from None


def _skip(session: Session, job: Job, states: dict[str, JobState]) -> None:
    missing = [name for name in job.after if states[name].status != "done"]
    state = states[job.name]
    state.status, state.session = "skipped", session.id
    state.message = f"needs {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    state.write(session.folder)


@contextlib.contextmanager
def _stopping(session: Session) -> Iterator[None]:
    """SIGINT and SIGTERM: the first one stops all jobs at their next step boundary, the second one kills them.

    But for a SIGTERM soon after the first: it is told to every process by some, and run_cv.sh passes its own on to us.
    """
    since = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if session.signal is None:
            since = time.monotonic()
        elif number == signal.SIGTERM and time.monotonic() - since < SAME_S:
            return
        session.signal = number
        with contextlib.suppress(OSError):  # a full disk: `_beating` says it as soon as it can
            session.ask("stop" if session.order == "go" else "kill")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if session.order == "go":
            session.ask("stop")  # whatever still runs on a worker that we lost sight of


@contextlib.contextmanager
def _beating(session: Session, jobs: Sequence[Job], watch: Watch) -> Iterator[Callable[[], dict[str, JobState]]]:
    """Show that we live, and the states to the watcher, from a thread of its own; yields what reads the states."""
    ended = threading.Event()

    def states() -> dict[str, JobState]:
        return read_states(session.folder, session.id, jobs)

    def loop() -> None:
        while not ended.wait(BEAT_S / 2):
            # Shared storage may be away for a moment, or show half a file.
            with contextlib.suppress(OSError):
                session.beat()
            with contextlib.suppress(OSError, ValueError):
                watch(states())

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield states
    finally:
        ended.set()
        thread.join()
        watch(states())
