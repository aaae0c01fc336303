"""How a grid's main process and its supervisors talk: one small file on the storage that they share.

The same for loky, Dask and any other backend: the main process writes `session.json` (who it is, what is to be done, a
counter that shows that it lives), every supervisor reads it. A backend's own channels were rejected: they differ, and
none of them tells a task on another host that its client was killed.
"""

import os
import socket
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from base.errors import UserError
from base.files import read_json, write_json

Order = Literal["go", "stop", "kill", "lost"]
"""go on; stop at the next step boundary; kill; or the main process is lost, and its jobs stop too."""

BEAT_S = 2.0
LOST_S = 60.0  # a shared file system may show a change this late


@dataclass
class Session:
    """The main process's end."""

    folder: Path
    """The run's folder of jobs, absolute."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    order: Order = "go"
    signal: int | None = None
    """What the person sent: SIGINT or SIGTERM."""
    beats: int = 0

    def beat(self) -> None:
        """Show that we live; to be called every `BEAT_S` seconds."""
        self.beats += 1
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        write_json(session_path(self.folder), {"id": self.id, "order": self.order, "beats": self.beats} | who)

    def ask(self, order: Order) -> None:
        self.order = order
        self.beat()

    def listener(self) -> "Listener":
        return Listener(self.folder, self.id, os.getpid())


@dataclass
class Listener:
    """A supervisor's end; it travels to the worker with the job."""

    folder: Path
    id: str
    main_pid: int
    _is_child: bool = False
    _beats: int = -1
    _heard: float | None = None
    """When the main process showed last that it lives; None: nobody has asked yet."""

    def refuse_other_storage(self) -> None:
        """
        Raises:
            UserError: this worker does not see the run's folder.
        """
        if not session_path(self.folder).exists():
            raise UserError(
                f"a worker on host {socket.gethostname()} cannot see {self.folder}: with jobs.dask, runs, packs and "
                f"data must lie on storage that all workers mount at the same path. Mount it there, or stop that worker"
            )

    def order(self) -> Order:
        """What the main process wants now."""
        if self.is_orphan:
            return "lost"
        now = time.monotonic()
        self._heard = now if self._heard is None else self._heard  # the first look may fail too
        try:
            said = read_json(session_path(self.folder))
        except (OSError, ValueError):  # a shared file system may lose sight of a file while it is replaced
            said = {"id": self.id, "order": "go", "beats": self._beats}
        if said["id"] != self.id:
            return "lost"  # another main process has taken over
        if said["beats"] != self._beats:
            self._beats, self._heard = said["beats"], now
        return "lost" if now - self._heard > LOST_S else said["order"]

    @property
    def is_orphan(self) -> bool:
        """Whether the main process was our parent and is dead; found out at once, where a silent one takes `LOST_S`."""
        self._is_child = self._is_child or os.getppid() == self.main_pid
        return self._is_child and os.getppid() != self.main_pid


def session_path(folder: Path) -> Path:
    return folder / "session.json"
