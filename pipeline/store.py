"""The probability store: one network's probabilities of many tiles, small, quick to read in any order, with proof.

    <path>/  manifest.json  what it holds, what it was made from, the hash of the index
             index.csv      a row per tile in order: its name, and the bytes, crc32 and sha256 of its frame
             probs.bin      the frames, one after the other: a tile's (C, H, W) values as one Blosc (lz4) buffer

Files of our own around numcodecs, and not zarr: zarr spends more time on finding a chunk than on decoding it, and its
shards hold no hash. docs/store.md has the measurement.
"""

import contextlib
import hashlib
import os
import weakref
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numcodecs
import numpy as np
import pandas as pd
from joblib import cpu_count
from numcodecs import Blosc

from base.errors import UserError, listed, refuse_all
from base.files import clear_aside, hash_file, read_json, whole_folder, write_json, write_text
from config.run import fold_name
from pipeline.quantise import LARGEST, STORE_DTYPES, StoreDtype, dequantise, quantise

FORMAT = 2  # raised when the files' meaning changes
MANIFEST, INDEX, PROBS = "manifest.json", "index.csv", "probs.bin"
FACTS = ("tiles", "classes", "height", "width", "dtype", "bytes", "index_sha256")  # readers need them
EXCERPT_KIND = "test-excerpt"  # of `Run.test_excerpt`
COLUMNS = ("name", "bytes", "crc32", "sha256")
THREADS = 16  # at most, that round and compress: one does 700 tiles/s, a GPU thousands
WAITING_BYTES = 2**27  # of tiles that may wait for them beside a GPU, or two batches: neither side idles
SYNC_BYTES = 2**26  # that are handed to the disk at once, so that little of it is left to wait for at the end

# Blosc's own threads append a frame's blocks in whatever order they end: the same values would give other bytes.
numcodecs.blosc.use_threads = False


class StoreWriter:
    """Takes probabilities batch by batch; threads round, compress, hash and write them while the network goes on."""

    def __init__(
        self,
        file: BinaryIO,
        names: list[str],
        channels: int,
        size_px: tuple[int, int],
        dtype: StoreDtype,
        in_turn: bool,
        threads: int,
    ) -> None:
        self.rows: list[tuple[str, int, int, str]] = []
        """`COLUMNS` of the frames written so far."""
        self._file, self._names, self._dtype, self._in_turn = file, names, dtype, in_turn
        self._tile_shape = (channels, *size_px)
        self._codec = _codec(dtype)
        self._threads = threads
        self._workers, self._disk = ThreadPoolExecutor(self._threads), ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Future[None], int]] = deque()
        """Writes of a batch that have not been waited for, and the memory that it holds."""
        self._syncs: list[Future[None]] = []
        self._taken = self._bytes_waiting = self._bytes_unsynced = 0

    def append(self, probs_NCHW: np.ndarray, sound_N: np.ndarray | None = None) -> None:
        """Probabilities of the next tiles in the order of the names. The array must not be changed afterwards.

        Args:
            probs_NCHW: float32; or in the store's dtype, rounded by a device that has done so in no time.
            sound_N: of rounded ones, whether they were numbers in 0..1 before.

        Raises:
            UserError: NaN, or values outside 0..1; names the tile. It may come with a later batch, or at the end.
            ValueError: another shape, or more tiles than names.
        """
        if probs_NCHW.shape[1:] != self._tile_shape:
            raise ValueError(f"tiles of shape {probs_NCHW.shape[1:]}; the store was begun for {self._tile_shape}")
        names = self._names[self._taken : self._taken + len(probs_NCHW)]
        if len(names) < len(probs_NCHW):
            raise ValueError(f"{self._taken + len(probs_NCHW)} tiles for {len(self._names)} names")
        some = max(1, len(names) // self._threads)  # at once to a thread: handing over takes its time too
        parts = [slice(first, first + some) for first in range(0, len(names), some)]
        frames = [
            self._workers.submit(
                self._frames, names[part], probs_NCHW[part], None if sound_N is None else sound_N[part]
            )
            for part in parts
        ]
        self._waiting.append((self._disk.submit(self._write, frames), probs_NCHW.nbytes))
        self._taken += len(names)
        self._bytes_waiting += probs_NCHW.nbytes
        self._wait_until(0 if self._in_turn else max(WAITING_BYTES, 2 * probs_NCHW.nbytes))

    def finish(self) -> None:
        """Wait until all is on the disk. ValueError: fewer tiles than names."""
        self._wait_until(0)
        if self._taken < len(self._names):
            raise ValueError(f"{self._taken} tiles for {len(self._names)} names")
        for sync in self._syncs:
            sync.result()
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._workers.shutdown(cancel_futures=True)
        self._disk.shutdown(cancel_futures=True)

    def _wait_until(self, waiting_bytes: int) -> None:
        while self._bytes_waiting > waiting_bytes:
            written, size = self._waiting.popleft()
            written.result()
            self._bytes_waiting -= size

    def _write(self, frames: list[Future[list[tuple[str, bytes, int, str]]]]) -> None:
        """Write a batch's frames as they are compressed: one thread, in the order of the names."""
        for future in frames:
            for name, frame, crc32, sha256 in future.result():
                self._file.write(frame)
                self.rows.append((name, len(frame), crc32, sha256))
                self._bytes_unsynced += len(frame)
        if self._bytes_unsynced > SYNC_BYTES:
            self._bytes_unsynced = 0
            self._file.flush()
            self._syncs.append(self._workers.submit(os.fsync, self._file.fileno()))

    def _frames(
        self, names: list[str], probs_NCHW: np.ndarray, sound_N: np.ndarray | None
    ) -> list[tuple[str, bytes, int, str]]:
        """Name, frame, and its crc32 and sha256, of some tiles."""
        frames = []
        for row, (name, probs_CHW) in enumerate(zip(names, probs_NCHW, strict=True)):
            if not (_are_probabilities(probs_CHW) if sound_N is None else sound_N[row]):
                raise UserError(
                    f"tile {name}: the network's probabilities are NaN or outside 0..1; "
                    f"if it was trained in half precision, set train.precision=fp32"
                )
            stored_CHW = quantise(probs_CHW[None], self._dtype)[0] if sound_N is None else probs_CHW
            frame = self._codec.encode(stored_CHW)
            frames.append((name, frame, zlib.crc32(frame), hashlib.sha256(frame).hexdigest()))
        return frames


def _are_probabilities(values: np.ndarray) -> bool:
    """Whether all are numbers in 0..1."""
    return bool(values.min() >= 0 and values.max() <= LARGEST)  # False for NaN


@contextlib.contextmanager
def write_store(
    path: Path,
    names: Sequence[str],
    classes: Sequence[str],
    height: int,
    width: int,
    manifest: dict[str, Any],
    dtype: StoreDtype = "uint8",
    in_turn: bool = False,
    *,
    threads: int | None = None,
) -> Iterator[StoreWriter]:
    """A writer for the tiles `names`; the store stands at `path` once the block ends well, and not before.

    The caller holds a lock, so that nobody else writes there: what a killed writer left aside is removed.

    Args:
        classes: names of the channels; a specialist has one.
        manifest: JSON-able facts about what makes the probabilities, kept in the store's manifest.
        in_turn: `append` waits until its tiles are compressed: for a caller that keeps all cores busy itself. Threads
            beside a network on the CPU hold up each of its layers (.935 of its speed, not .972).
        threads: of the caller's job, which shares the machine with others; None: as many as it may have cores. The
            bytes are the same with any number.
    """
    names, classes = list(names), list(classes)
    if len(set(names)) < len(names):
        raise ValueError(f"tile names are given twice in {path}")
    clear_aside(path)
    threads = min(THREADS, threads or cpu_count())  # joblib's: knows of containers and of cores taken from this process
    with whole_folder(path) as aside:
        with open(aside / PROBS, "wb") as file:
            writer = StoreWriter(file, names, len(classes), (height, width), dtype, in_turn, threads)
            try:
                yield writer
                writer.finish()
            finally:
                writer.close()
        index = pd.DataFrame(writer.rows, columns=COLUMNS)
        write_text(aside / INDEX, index.to_csv(index=False, lineterminator="\n"))
        facts = {
            "format": FORMAT,
            "tiles": len(names),
            "classes": classes,
            "height": height,
            "width": width,
            "dtype": dtype,
            "codec": _codec(dtype).get_config(),
            "bytes": sum(size for _, size, _, _ in writer.rows),
            "index_sha256": hash_file(aside / INDEX),
        }
        write_json(aside / MANIFEST, manifest | facts)


class Store:
    """A store that was opened by `open_store`. Safe to read from several threads, and to send to other processes."""

    def __init__(self, path: Path, manifest: dict[str, Any], index: pd.DataFrame):
        self.path, self.manifest = path, manifest
        self.names: list[str] = index.name.tolist()
        self.classes: list[str] = manifest["classes"]
        self.size_px: tuple[int, int] = (manifest["height"], manifest["width"])
        self.dtype = np.dtype(manifest["dtype"])
        self._crc32, self._sha256 = index.crc32.tolist(), index.sha256.tolist()
        self._ends = np.cumsum(index.bytes.to_numpy(np.int64)).tolist()
        self._codec = _codec(manifest["dtype"])

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple:
        return open_store, (self.path,)

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        return (len(self.classes), *self.size_px)

    @cached_property
    def _fd(self) -> int:
        fd = os.open(self.path / PROBS, os.O_RDONLY)
        weakref.finalize(self, os.close, fd)  # open while the store is in use: readers need no `with`
        return fd

    def read_raw(self, tile: int, out_CHW: np.ndarray | None = None) -> np.ndarray:
        """(C, H, W) of one tile in the stored dtype, for blends that take a table of 256 values or scale at the end.

        Args:
            out_CHW: where to put it, contiguous; None: a new array.

        Raises:
            UserError: the frame is not the one that was written.
        """
        frame = self._frame(tile)
        if zlib.crc32(frame) != self._crc32[tile]:
            raise UserError(
                f"{self.path}: tile {self.names[tile]} was changed after it was written. {_again(self.manifest)}"
            )
        out_CHW = np.empty(self.tile_shape, self.dtype) if out_CHW is None else out_CHW
        self._codec.decode(frame, out_CHW)
        return out_CHW

    def is_as_written(self, tile: int) -> bool:
        """Whether a tile has the sha256 with which it was written."""
        return hashlib.sha256(self._frame(tile)).hexdigest() == self._sha256[tile]

    def _frame(self, tile: int) -> bytes:
        begin = self._ends[tile - 1] if tile else 0
        # pread, not a memory map: it needs no lock between threads, and a file cut short is an error, not a crash.
        return os.pread(self._fd, self._ends[tile] - begin, begin)

    def read(self, tile: int) -> np.ndarray:
        """(C, H, W) float32 probabilities of one tile. Not normalised: see pipeline/quantise.py."""
        return dequantise(self.read_raw(tile))


def open_store(path: Path) -> Store:
    """The store at `path`, checked as far as takes no time: files, sizes, names. `pipeline.check` reads the rest.

    Raises:
        UserError: lists everything that is wrong, and what to run.
    """
    path = Path(path)
    if not (path / MANIFEST).exists():
        raise UserError(f"no probabilities at {path}. {_again({})}")
    manifest = _read_manifest(path)
    problems = []
    index = pd.DataFrame({column: [] for column in COLUMNS})
    if not (path / INDEX).exists():
        problems.append(f"{INDEX} is missing")
    elif hash_file(path / INDEX) != manifest["index_sha256"]:
        problems.append(f"{INDEX} was changed after it was written")
    else:
        index = pd.read_csv(path / INDEX, dtype={"name": str}, keep_default_na=False)
        if len(index) != manifest["tiles"]:
            problems.append(f"{len(index)} tiles; the manifest counts {manifest['tiles']}")
    size = (path / PROBS).stat().st_size if (path / PROBS).exists() else 0
    if size != manifest["bytes"]:
        problems.append(f"{PROBS} has {size} bytes of {manifest['bytes']}")
    refuse_all(f"{path} is damaged ({_again(manifest)})", problems)
    return Store(path, manifest, index)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path / MANIFEST)
    except ValueError:
        raise UserError(f"{path}: {MANIFEST} is not JSON; it was cut short or changed. {_again({})}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise UserError(f"{path}: format {found}; this version reads {FORMAT}. {_again({})}")
    if missing := [key for key in FACTS if key not in manifest]:
        raise UserError(f"{path}: {MANIFEST} lacks {listed(missing)}. {_again(manifest)}")
    if manifest["dtype"] not in STORE_DTYPES:
        raise UserError(f"{path}: dtype {manifest['dtype']}; known: {listed(STORE_DTYPES)}")
    return manifest


def content_problems(store: Store) -> list[str]:
    """Every tile's probabilities against their hash; empty when they are as written."""
    changed = [name for tile, name in enumerate(store.names) if not store.is_as_written(tile)]
    return [f"{store.path}: tiles changed after they were written: {listed(changed)}"] if changed else []


def _codec(dtype: str) -> Blosc:
    # lz4 and not zstd: a fifth to two fifths larger, but read twice as fast, and a blend reads all members of all
    # tiles. Bytes of probabilities are smooth as they are; those of float16 compress better apart.
    shuffle = Blosc.SHUFFLE if dtype == "float16" else Blosc.NOSHUFFLE
    return Blosc(cname="lz4", clevel=9, shuffle=shuffle)


def _again(manifest: dict[str, Any]) -> str:
    """What to run to have a store again."""
    if manifest.get("kind") == EXCERPT_KIND:  # of a part that is gone
        return "Delete it: no result needs it"
    if {"kind", "model", "fold", "seed"} <= manifest.keys():
        return (
            f"Delete it and run: python -m pipeline.predict --config FILE --model {manifest['model']} "
            f"--fold {fold_name(manifest['fold'])} --seed {manifest['seed']} --split {manifest['kind']}"
        )
    return "Run: python -m pipeline.cv --config FILE"
