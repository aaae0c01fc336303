"""SIGINT and SIGTERM ask for an end at the next step boundary, with a checkpoint written; a second one ends at once.

But for a SIGTERM soon after the first: a batch system at its time limit tells every process, and our guard passes on to
its job what the job was told already.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from threading import Thread
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None
SAME_S = 5.0  # so soon, a SIGTERM is the one before


class Stopped(Exception):
    """Raised by a stage that was asked to end and has saved its work."""


class StopRequest:
    """Whether somebody asked this process to end. It listens within its `with` block, in a command's main.

    After the block the handlers from before are back: a caller in the same process, and whatever it forks, would
    otherwise not end on SIGTERM.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell has it."""
        return 128 + (self.signal or 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
            print(f"stopping at the next step ({signal.Signals(number).name})", file=sys.stderr, flush=True)
        elif number == signal.SIGINT or time.monotonic() - self._since > SAME_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def leave_stopping_to_main(worker: int) -> None:
    """Begin a process that loads batches for the main one, and lives while that needs it: a `worker_init_fn`.

    SIGINT and SIGTERM may be told to all processes at once, but the main one needs its batches up to its next step. A
    SIGTERM of the main process itself still ends the worker, as Python ends its children when it exits after a crash:
    it waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # others do not tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with_main, daemon=True).start()


def _end_with_main() -> None:
    main = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)
