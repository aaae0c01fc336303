"""SIGINT and SIGTERM ask for an end at the next step boundary, with a checkpoint written; a second one ends at once.

But for a SIGTERM soon after the first: a batch system at its time limit tells every process, and our guard passes on to
its job what the job was told already.
"""

import signal
import sys
import time
from collections.abc import Callable
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
