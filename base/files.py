"""Files are whole or absent: written aside, flushed, renamed; folders likewise, but not flushed. Links stay links.

Also the hashes by which stages know each other.
"""

import contextlib
import csv
import errno
import filecmp
import glob
import hashlib
import json
import os
import resource
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from base.errors import UserError


def _target(path: Path) -> Path:
    """Where a path leads: a ledger may be linked into several projects, a store to a larger disk.

    Raises:
        UserError: into a folder that is not there, which is not for us to make: its disk may not be mounted.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UserError(f"{path} is a link to {target}, and there is no folder {target.parent}. Is its disk mounted?")
    return target


def _aside(path: Path) -> Path:
    # In the same folder, so that the rename never crosses file systems; hidden, so that no glob takes it for data.
    return path.parent / f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"


FULL_BYTES = 1 << 16  # so little left means that what was just being written did not fit


@contextlib.contextmanager
def _names_a_full_disk(path: Path) -> Iterator[None]:
    """What fails in the block because no more can be written says so, with `path`, whoever wrote.

    numpy reports a short write without an error number, torch and safetensors raise errors of their own.

    Raises:
        OSError: ENOSPC, EDQUOT or EFBIG in place of such errors.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
            raise
        if number := _what_is_full(_target(path).parent):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _what_is_full(folder: Path) -> int | None:
    """Why nothing more can be written to a folder, as an error number; None: for no reason that could be found."""
    if shutil.disk_usage(folder).free < FULL_BYTES:
        return errno.ENOSPC
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:  # a quota is not seen in what the disk has free
            probe.write(bytes(FULL_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno
    return None if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY else errno.EFBIG


def clear_aside(path: str | Path) -> None:
    """Remove what writers of `path` left aside when they were killed. The caller knows that nobody writes it now."""
    path = _target(Path(path))
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` only if the block ends without an error.

    A file that comes out as it was is left alone, so that its time says when its content changed. Where `path` is a
    link, what it leads to is written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = _target(path)
    aside = _aside(target)
    try:
        with _names_a_full_disk(path):
            yield aside
            with open(aside, "rb+") as written:
                os.fsync(written.fileno())
        if not (target.is_file() and filecmp.cmp(target, aside, shallow=False)):
            os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """The same for a folder. An older folder of that name is replaced at the end, not before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = _target(path)
    aside = _aside(target)
    aside.mkdir()
    try:
        with _names_a_full_disk(path):
            yield aside
        if target.exists():
            old = _aside(target)
            os.replace(target, old)
            os.replace(aside, target)
            shutil.rmtree(old)
        else:
            os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_npy_head(file: BinaryIO, like: np.ndarray, count: int) -> None:
    """The head of a .npy of `count` arrays such as `like`, whose bytes follow one after another: for what does not fit
    in memory."""
    head = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False, "shape": (count, *like.shape)}
    np.lib.format.write_array_header_1_0(file, head)


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class NotJson(UserError, ValueError):
    """A file that was cut short or changed by hand."""


def read_json(path: str | Path) -> Any:
    """
    Raises:
        NotJson: what the file holds is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotJson(
            f"{path}: no JSON ({error}); it was cut short or changed. Delete it and run the same command again, which "
            f"makes anew what it belongs to"
        ) from None


def hash_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_stats(folder: Path, names: Iterable[str]) -> str:
    """sha256 of names, sizes and times of files: quick for gigabytes, and any touched file changes it."""
    stats = [(name, os.stat(f"{folder}/{name}")) for name in names]  # pathlib takes twice as long
    return hash_value([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def hash_rows(path: Path, column: str, value: str, without: tuple[str, ...] = ()) -> str:
    """sha256 of those rows of a csv that have a value in a column, in their order, but for some of their columns."""
    stat = path.stat()
    return _hash_rows(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size), column, value, without)


@lru_cache(maxsize=64)  # asked once for each of hundreds of members
def _hash_rows(path: Path, version: tuple[int, ...], column: str, value: str, without: tuple[str, ...]) -> str:
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(column) == value]
    return hash_value([{key: cell for key, cell in row.items() if key not in without} for row in rows])


def hash_value(value: Any) -> str:
    """sha256 of a JSON-able value, in hex; the order of dict keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
