"""Stands between a supervisor and its job, so that the job never outlives it: `python guard.py LOG COMMAND...`.

A process of its own, and a small one: it can wait for the job and for the supervisor's death at once, and a supervisor
inside a loky or Dask worker, with its many threads, must not fork. Only the standard library is imported: the guard
starts in some hundredths of a second.

stdin   the supervisor's hand: "s" stops the job at its next step boundary (SIGTERM), "k" kills it; the end of the pipe
        means that the supervisor is gone: stop, and kill after `GRACE_S`
stdout  one line of JSON when the job has ended: exit_code (negative: the signal), wall_s, peak_mib
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 20.0
PR_SET_PDEATHSIG = 1


def main() -> None:
    log, *command = sys.argv[1:]
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the supervisor alone decides
        signal.signal(ignored, signal.SIG_IGN)
    # Loaded before the fork: between fork and exec nothing may be imported.
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    guard = os.getpid()

    def begin() -> None:
        for given in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(given, signal.SIG_DFL)
        if libc is not None:  # where there is no such call, a guard that is itself killed leaves its job behind
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)

    start = time.monotonic()
    with open(log, "ab") as out:
        # A process group of its own: Ctrl-C at the terminal does not reach it. Not a session: Linux shares out the
        # processor by sessions first, so jobs would push everything else aside, and `nice` would not hold them back.
        job = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0, preexec_fn=begin
        )
    usage = watch(job.pid)
    result = {
        "exit_code": os.waitstatus_to_exitcode(usage[1]),
        "wall_s": round(time.monotonic() - start, 3),
        # The largest process of the job; kilobytes on Linux, bytes on macOS.
        "peak_mib": round(usage[2].ru_maxrss / (1024 if sys.platform == "linux" else 1024**2), 1),
    }
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(result).encode() + b"\n")


def watch(pid: int) -> tuple:
    """Wait for the job and pass on what the supervisor says; what `os.wait4` returned."""
    deadline = float("inf")
    listening = [0]
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            _kill_group(pid)
        readable, _, _ = select.select(listening, [], [], 0.05)
        if not readable:
            continue
        said = os.read(0, 1)
        if said == b"k":
            _kill_group(pid)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if not said:
            deadline = time.monotonic() + GRACE_S
            listening = []
    # While the ended job is not yet reaped its group's number cannot be another's: loader processes that are left go.
    _kill_group(pid)
    return os.wait4(pid, 0)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
