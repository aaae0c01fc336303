"""One at a time: a lock file that says who holds it. The kernel frees it when its holder dies, whatever killed it."""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from base.errors import UserError
from base.files import clear_aside, whole_folder

ASKED_S = 0.5  # as long `held` tries: `is_free` takes a lock for a moment, only to ask
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextlib.contextmanager
def held(path: str | Path, what: str) -> Iterator[None]:
    """Hold the lock `path` for the block.

    Args:
        what: what the lock guards, for the message: "run 'naip'".

    Raises:
        UserError: somebody else holds it; names the process, its host and since when.
    """
    begun, lock = time.monotonic(), try_lock(path)
    while lock is None and time.monotonic() - begun < ASKED_S:
        time.sleep(0.02)
        lock = try_lock(path)
    if lock is None:
        raise UserError(f"{what} is being worked on by {holder_of(path)}; wait for it, or stop it")
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def waited(path: str | Path) -> Iterator[None]:
    """Hold the lock `path` for the block, as soon as whoever has it now lets it go."""
    lock = _take(path, wait_s=-1)
    try:
        yield
    finally:
        lock.release()


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have a folder that several runs share: the first one that wants it makes it, the others wait for that.

    Args:
        make: fills an empty folder, which becomes `folder` when it is whole.
    """
    if folder.exists():
        return
    with waited(folder.with_suffix(".lock")):
        if not folder.exists():
            clear_aside(folder)  # what somebody who was killed was making, which may be large
            with whole_folder(folder) as aside:
                make(aside)


def try_lock(path: str | Path, for_everybody: bool = False) -> FileLock | None:
    """The lock, taken and not to be dropped until `release()`; None while a living process has it.

    Args:
        for_everybody: other users of this machine may take it later.
    """
    try:
        return _take(path, 0, **({"mode": 0o666} if for_everybody else {}))
    except Timeout:
        return None


def _take(path: str | Path, wait_s: float, **mode: int) -> FileLock:
    """
    Args:
        wait_s: after which `Timeout` is raised; -1: never.

    Raises:
        UserError: the file system has no locks.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # thread_local: any thread of this process may release what another one took.
    lock = FileLock(path, timeout=wait_s, thread_local=False, on_acquired=_sign, **mode)
    try:
        lock.acquire()
    except (NotImplementedError, OSError) as error:  # the first is filelock's for ENOSYS; its Timeout is an OSError
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        raise UserError(
            f"{path}: the file system there has no file locks, without which two runs would spoil each other. "
            f"Use one that has (a local disk, NFS 4, Lustre mounted with flock)"
        ) from None
    return lock


def is_free(path: str | Path) -> bool:
    """Whether nobody holds the lock just now."""
    if not Path(path).exists():
        return True
    lock = try_lock(path)
    if lock:
        lock.release()
    return lock is not None


def holder_of(path: str | Path) -> str:
    """Who took the lock last, as "process 123 on host box since 2021-03-01 12:00:00"."""
    try:
        holder = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # taken this very moment and not yet signed
        return "another process"
    return f"process {holder['pid']} on host {holder['host']} since {holder['since']}"


def _sign(descriptor: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
