"""One job under supervision, inside a worker of any joblib backend: its slot, its process, its log, its retries."""

import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from base.errors import UserError
from base.locks import holder_of, is_free
from config.jobs import Jobs
from pipeline import guard
from pipeline.job_state import HEADER, Attempt, Job, JobState, Status, log_path, log_tail
from pipeline.session import Listener
from pipeline.slots import Place, Slot, place_here

POLL_S = 0.2
TIME = "%Y-%m-%d %H:%M:%S"
REFUSED = 2  # exit code: something that a person must mend first
NO_MEMORY = "CUDA ran out of memory"
CUDA_IS_FULL = re.compile(r"CUDA out of memory|CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED")
LOST = "its worker was killed; time and memory are unknown"

_in_hand: set[str] = set()
"""Jobs that this process supervises now."""
_parent: int | None = None
"""The main process, where this one is its child and works for it alone."""


@dataclass(frozen=True)
class Rules:
    """What every supervisor of a session is told."""

    listener: Listener
    directory: Path
    """Where commands run, and what their relative paths mean; absolute."""
    jobs: Jobs
    members: int
    """Of the whole experiment; see `place_here`."""


def supervise(job: Job, rules: Rules) -> JobState:
    """Run a job to its end, going on after failures; always returns, with what became of it.

    Raises:
        UserError: this worker does not see the run's folder, or has more threads than slots.
    """
    rules.listener.refuse_other_storage()
    place = place_here(rules.jobs, rules.members)
    if rules.jobs.dask:
        _refuse_idle_threads(len(place.slots))
    _in_hand.add(job.name)
    try:
        _leave_if_left_behind()
        state = _run_to_its_end(job, rules, place)
        _leave_if_left_behind()
        return state
    finally:
        _in_hand.discard(job.name)


def obey(main_pid: int) -> None:
    """Begin a worker that is a child of the main process: it ends after it, once the job in hand has stopped.

    It would otherwise begin the next job, which it may have got already, or wait for one, loky's workers for minutes.

    Signals that reach a whole terminal or a whole batch job reach the main process too, which decides: SIGINT says
    nothing here, SIGTERM only ends a worker without a job, as a pool does with its own. A forked worker would else
    have the main process's handlers, and outlive its pool, which waits for it for ever.
    """
    global _parent
    _parent = main_pid
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    # Python calls a handler when the main thread gets round to it: never, if the signal came just before it began to
    # wait for the next job. The pipe is written to at once.
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)

    def watch() -> None:
        idle_polls, dismissed = 0, False
        while True:
            if select.select([heard], [], [], POLL_S)[0]:
                dismissed |= signal.SIGTERM in os.read(heard, 64)
            idle_polls = 0 if _in_hand else idle_polls + 1
            if idle_polls:
                _leave_if_left_behind()
            if dismissed and idle_polls > 1:  # not at once: the result of a job may be on its way
                os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _leave_if_left_behind() -> None:
    if _parent is not None and os.getppid() != _parent:
        os._exit(1)  # nobody will ever ask for the result


def _run_to_its_end(job: Job, rules: Rules, place: Place) -> JobState:
    listener, folder = rules.listener, rules.listener.folder
    state = _waiting_state(job, rules)
    failures, failed_on = 0, None
    while state.status == "waiting":
        if listener.order() != "go":
            state.status = "stopped"
            break
        if job.lock and not is_free(job.lock):
            _wait_for(f"another process: {holder_of(job.lock)}", state, folder)
            continue
        with place.free_slot(avoid=failed_on) as slot:
            if slot is None:
                _wait_for(f"a free slot on {state.host}, taken by {place.taken_by()}", state, folder)
                continue
            attempt = _attempt(job, slot, rules, state)
        if state.status == "failed" and attempt.exit_code != REFUSED and failures < rules.jobs.retries:
            failures, failed_on, state.status = failures + 1, attempt.device, "waiting"
        state.write(folder)
    if state.status == "failed":
        state.message = "\n".join(log_tail(folder, job.name))
    state.write(folder)
    return state


def _waiting_state(job: Job, rules: Rules) -> JobState:
    """The state to begin with: what earlier sessions left behind, as this one needs it."""
    state = JobState.read(rules.listener.folder, job.name)
    if state.status == "running":  # whoever supervised it was killed before it could write down the end
        started = time.strftime(TIME, time.localtime(state.since))
        state.attempts.append(
            Attempt(job.name, len(state.attempts) + 1, state.host, state.device, started, -9, 0.0, 0.0, LOST)
        )
    if state.status == "done" or not rules.jobs.shrink_batch:
        state.split_batch = 1  # what is made anew is made whole
    state.split_batch = max(state.split_batch, rules.jobs.split_batch)
    state.status, state.session, state.host, state.message = "waiting", rules.listener.id, socket.gethostname(), ""
    state.probe_s = job.probe_s
    return state


def _refuse_idle_threads(slots: int) -> None:
    """A Dask worker with more threads than its machine has slots would take jobs only to let them wait."""
    from distributed import get_worker

    threads = get_worker().state.nthreads
    if threads > slots:
        raise UserError(
            f"the Dask worker on {socket.gethostname()} has {threads} threads, and its machine {slots} slots: jobs "
            f"would wait there while others idle. Start it with --nthreads {slots}, or raise jobs.per_device"
        )


def _wait_for(what: str, state: JobState, folder: Path) -> None:
    """Wait a moment, and let people know what for."""
    if not state.message:
        state.message = f"waits for {what}"
        state.write(folder)
    time.sleep(POLL_S)


def _attempt(job: Job, slot: Slot, rules: Rules, state: JobState) -> Attempt:
    """Run the command once on a slot, and say in the state what became of it."""
    folder = rules.listener.folder
    state.status, state.device, state.since, state.message = "running", slot.device, time.time(), ""
    state.write(folder)
    command = [*job.command, *slot.settings]
    if state.split_batch > rules.jobs.split_batch:
        command.append(f"jobs.split_batch={state.split_batch}")
    number, started = len(state.attempts) + 1, time.strftime(TIME)
    result = _run_once(command, slot, rules, log_path(folder, job.name), f"{number}: {started}")
    note = _note(result["exit_code"], log_tail(folder, job.name))
    if note == NO_MEMORY and rules.jobs.shrink_batch and state.split_batch < job.most_parts:
        state.split_batch = min(2 * state.split_batch, job.most_parts)
        note += f"; goes on with batches in {state.split_batch} parts"
    attempt = Attempt(job.name, number, state.host, slot.device, started, **result, note=note)
    state.attempts.append(attempt)
    state.status = _verdict(attempt.exit_code, rules.listener)
    return attempt


def _run_once(command: list[str], slot: Slot, rules: Rules, log: Path, which: str) -> dict:
    """One process, from start to end; what its guard reports."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        bounds = " ".join(f"{key}={value}" for key, value in slot.environment.items())
        file.write(f"\n{HEADER}{which} on {socket.gethostname()} {slot.device}\n{bounds} {shlex.join(command)}\n")
    if command[0] == "python":
        command = [sys.executable, *command[1:]]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, str(log), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=rules.directory,
        env=os.environ | slot.environment,
        bufsize=0,
    )
    return _wait(process, rules.listener)


def _wait(process: subprocess.Popen, listener: Listener) -> dict:
    """What the guard reports in the end; passes stop and kill on to it meanwhile."""
    said = set()
    while True:
        try:
            process.wait(POLL_S)
            break
        except subprocess.TimeoutExpired:
            order = {"stop": b"s", "lost": b"s", "kill": b"k", "go": b""}[listener.order()]
            if order and order not in said:
                said.add(order)
                with contextlib.suppress(BrokenPipeError):  # the job ended this very moment
                    process.stdin.write(order)
    report = process.stdout.read()
    process.stdin.close()
    process.stdout.close()
    if not report:  # the guard itself was killed, and its job with it
        return {"exit_code": -int(signal.SIGKILL), "wall_s": 0.0, "peak_mib": 0.0}
    return json.loads(report)


def _verdict(exit_code: int, listener: Listener) -> Status:
    if exit_code == 0:
        return "done"
    return "failed" if listener.order() == "go" else "stopped"


def _note(code: int, last_lines: list[str]) -> str:
    """What an exit code means, in words."""
    if code == 1 and any(CUDA_IS_FULL.search(line) for line in last_lines):
        return NO_MEMORY
    if code == -signal.SIGKILL:
        return "killed; most often the machine ran out of memory"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return {
        0: "",
        REFUSED: "refused; see its log",
        128 + signal.SIGINT: "stopped",
        128 + signal.SIGTERM: "stopped",
    }.get(code, "crashed; see its log")
