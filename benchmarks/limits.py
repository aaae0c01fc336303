"""What the machine could do at most, beside what the store and the blend do, all in one run.

python -m benchmarks.limits [--json FILE]

Limits: bytes copied in memory, and read from and written to the disk of the temporary folder (TMPDIR moves it), bare.
Beside them: a store written, read after its pages were dropped from the cache, read from the cache; and 8 members of a
tile read and blended. Rates are medians of interleaved rounds.
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from base.command import add_json, plain_parser, run, write_figures
from base.memory import keep_freed_memory
from base.threads import in_threads
from benchmarks.measure import ROUNDS, seconds, told
from benchmarks.store_formats import draw_probs
from ensemble.apply import apply_blend
from ensemble.fitted import uniform_blend
from pipeline.store import PROBS, Store, open_store, write_store

MIB = 2**20
COPIED, ON_DISK, PIECE = 512 * MIB, 1024 * MIB, 8 * MIB
MODELS, TILES, DISTINCT = 8, 256, 16
CORES = len(os.sched_getaffinity(0))


def copy(source: np.ndarray, into: np.ndarray) -> None:
    """One array into another, a part on each core."""
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(np.copyto, np.array_split(into, CORES), np.array_split(source, CORES)))


def write_bare(path: Path, piece: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        for _ in range(ON_DISK // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())


def read_bare(path: Path, into: bytearray) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.readinto(into):
            pass


def drop_pages(path: Path) -> None:
    """Out of the page cache, so that the next read is of the disk."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_members(folder: Path, probs_NCHW: np.ndarray, models: int) -> list[Store]:
    names, classes = [f"{i:06d}" for i in range(TILES)], [f"class{c}" for c in range(probs_NCHW.shape[1])]
    paths = [folder / f"model{m}" for m in range(models)]
    for m, path in enumerate(paths):
        with write_store(path, names, classes, *probs_NCHW.shape[2:], {}) as writer:
            for i in range(TILES):
                writer.append(probs_NCHW[(i + m) % DISTINCT][None])
    return [open_store(path) for path in paths]


def read_all(store: Store) -> None:
    """Every tile, in threads, each into an array that is there."""
    into = np.empty((CORES, *store.tile_shape), np.uint8)

    def part(core: int) -> None:
        for tile in range(core, len(store), CORES):
            store.read_raw(tile, into[core])

    for _ in in_threads(part, range(CORES), CORES):
        pass


def blend_all(stores: list[Store]) -> None:
    blend = uniform_blend(stores[0].classes, [store.path.name for store in stores])
    none_SHW = np.zeros((0, *stores[0].size_px), np.uint8)

    def label(tile: int) -> None:
        apply_blend(blend, [store.read_raw(tile) for store in stores], none_SHW)

    for _ in in_threads(label, range(TILES)):
        pass


def measure(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    probs_NCHW = np.stack([draw_probs(rng) for _ in range(DISTINCT)])
    source, into = rng.integers(0, 255, COPIED, np.uint8), np.zeros(COPIED, np.uint8)
    piece, buffer, bare = rng.bytes(PIECE), bytearray(PIECE), folder / "bare"
    stores = write_members(folder, probs_NCHW, MODELS)
    write_bare(bare, piece)
    store_file = stores[0].path / PROBS
    stored, raw = store_file.stat().st_size, TILES * int(np.prod(stores[0].tile_shape))

    works: dict[str, tuple[Callable[[], object], float, Path | None]] = {
        # MiB that pass, and the file whose pages are dropped before
        "memory_copy": (partial(copy, source, into), COPIED / MIB, None),
        "disk_write": (partial(write_bare, bare, piece), ON_DISK / MIB, None),
        "disk_read": (partial(read_bare, bare, buffer), ON_DISK / MIB, bare),
        "store_write": (partial(write_members, folder / "again", probs_NCHW, 1), stored / MIB, None),
        "store_read_disk": (partial(read_all, stores[0]), stored / MIB, store_file),
        "store_read_cache": (partial(read_all, stores[0]), raw / MIB, None),
        "blend": (partial(blend_all, stores), MODELS * raw / MIB, None),
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, (work, mib, dropped) in works.items():
            if dropped:
                drop_pages(dropped)
            rates[name].append(mib / seconds(work))
    said = {
        "memory_copy": f"copied in memory, {CORES} cores",
        "disk_write": "written to disk, with its fsync",
        "disk_read": "read from disk, cache dropped",
        "store_write": "store written: rounded, compressed, hashed, fsync; MiB as stored",
        "store_read_disk": "store read, cache dropped; MiB as stored",
        "store_read_cache": "store read from the cache; MiB as decoded",
        "blend": f"{MODELS} members read from the cache, blended, labelled; MiB as decoded",
    }
    for name, what in said.items():
        print(f"{what}: {told(rates[name], 0)} MiB/s")
    figures = {f"{name}_mib_s": float(np.median(each)) for name, each in rates.items()}
    tile_mib = raw / TILES / MIB
    figures["blend_tiles_s"] = figures["blend_mib_s"] / (MODELS * tile_mib)
    # What the disk could feed a blend with: tiles a second if nothing but reading the stores took time.
    figures["disk_tiles_s"] = figures["disk_read_mib_s"] / (MODELS * stored / TILES / MIB)
    figures["store_read_of_disk"] = figures["store_read_disk_mib_s"] / figures["disk_read_mib_s"]
    figures["store_read_of_memory"] = figures["store_read_cache_mib_s"] / figures["memory_copy_mib_s"]
    figures["blend_of_memory"] = figures["blend_mib_s"] / figures["memory_copy_mib_s"]
    bound = "computing" if figures["blend_tiles_s"] < figures["disk_tiles_s"] else "the disk"
    print(f"blend: {figures['blend_tiles_s']:.0f} tiles/s of {MODELS} members; the disk feeds "
          f"{figures['disk_tiles_s']:.0f}: {bound} is the limit")  # fmt: skip
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.limits", __doc__)
    add_json(parser)
    args = parser.parse_args(argv)
    keep_freed_memory()  # as ensemble.blend does
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
