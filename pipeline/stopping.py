"""SIGINT and SIGTERM ask for an end at the next step boundary, with a checkpoint written; a second one ends at once."""

import signal
import sys
from types import FrameType


class Stopped(Exception):
    """Raised by a stage that was asked to end and has saved its work."""


class StopRequest:
    """Whether somebody asked this process to end. Install it once, in a command's main."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def install(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)
        return self

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell has it."""
        return 128 + (self.signal or 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)  # the second one does not ask
        print(f"stopping at the next step ({signal.Signals(number).name})", file=sys.stderr, flush=True)
