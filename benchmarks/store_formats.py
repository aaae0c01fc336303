"""Ways to keep probabilities on disk: size, writing, reading in order and at random. The table is in docs/store.md.

python -m benchmarks.store_formats [--store PATH] [--json FILE]     (needs: pip install zarr==3.1.6)
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np
from numcodecs import Blosc, Zstd
from scipy.ndimage import zoom

from base.command import add_json, plain_parser, run, write_figures
from base.errors import UserError
from base.screen import screen, text_table
from benchmarks.measure import seconds
from pipeline.quantise import dequantise, quantise
from pipeline.store import open_store, write_store
from tests.stored import read_many

TILES, CHANNELS, PX = 128, 10, 256
AT_ONCE = 64  # tiles written, or read in order, at a time
RANDOM_READS = 48
THREADS = 2
CODEC_TILES = 32
ROUNDS = 3

Read = Callable[[int, int, np.ndarray], object]
"""Tiles first..last-1 as stored into an (n, C, H, W) buffer: its pages are there, so that only reading is timed."""


def draw_probs(rng: np.random.Generator) -> np.ndarray:
    """(C, H, W) float32 softmax of smooth logits, as sure as a network is: the mean of the largest is .85 here and .86
    for a U-Net on held-out naip tiles."""
    logits = np.zeros((CHANNELS, PX, PX))
    for cell, spread in ((64, 9.0), (16, 5.0), (4, 0.8), (1, 0.05)):
        logits += zoom(rng.normal(0, spread, (CHANNELS, PX // cell, PX // cell)), (1, cell, cell), order=1)
    power = np.exp(logits - logits.max(0))
    return (power / power.sum(0)).astype(np.float32)


class Ours:
    name = "frames and index (ours)"

    def write(self, path: Path, probs: np.ndarray, raw: np.ndarray) -> None:
        names, classes = [f"{i:06d}" for i in range(len(probs))], [f"class{c}" for c in range(probs.shape[1])]
        with write_store(path, names, classes, *probs.shape[2:], {}) as writer:
            for first in range(0, len(probs), AT_ONCE):
                writer.append(probs[first : first + AT_ONCE])

    def open(self, path: Path) -> Read:
        store, threads = open_store(path), ThreadPoolExecutor(THREADS)

        def read(first: int, last: int, into: np.ndarray) -> None:
            if last - first == 1:
                store.read_raw(first, into[0])
            else:
                list(threads.map(store.read_raw, range(first, last), into))

        return read


class Zarr:
    """zarr 3 with Blosc, the same codec, a tile to a chunk or several."""

    def __init__(self, chunk: int, shard: int | None) -> None:
        self.chunk, self.shard = chunk, shard
        self.name = f"zarr, {chunk} tiles a chunk" + (f", {shard} a shard" if shard else "")

    def write(self, path: Path, probs: np.ndarray, raw: np.ndarray) -> None:
        import zarr
        from zarr.codecs import BloscCodec

        zarr.config.set({"threading.max_workers": THREADS})
        tile = raw.shape[1:]
        array = zarr.create_array(
            path, shape=raw.shape, dtype=raw.dtype, chunks=(self.chunk, *tile), filters=None,
            shards=(self.shard, *tile) if self.shard else None,
            compressors=BloscCodec(cname="lz4", clevel=9, shuffle="noshuffle", typesize=1),
        )  # fmt: skip
        for first in range(0, len(probs), AT_ONCE):
            array[first : first + AT_ONCE] = quantise(probs[first : first + AT_ONCE])

    def open(self, path: Path) -> Read:
        import zarr
        from zarr.core.buffer.cpu import NDBuffer

        array = zarr.open_array(path, mode="r")
        return lambda first, last, into: array.get_basic_selection(
            (slice(first, last),), out=NDBuffer.from_numpy_array(into[: last - first])
        )


class Npz:
    """The way of nnU-Net: a compressed float32 file per tile."""

    name = "npz float32, a file a tile"

    def write(self, path: Path, probs: np.ndarray, raw: np.ndarray) -> None:
        path.mkdir()
        for i, tile in enumerate(probs):
            np.savez_compressed(path / f"{i}.npz", probabilities=tile)

    def open(self, path: Path) -> Read:
        def read(i: int) -> np.ndarray:
            with np.load(path / f"{i}.npz") as file:
                return file["probabilities"]  # numpy has no way to read it into a buffer

        threads = ThreadPoolExecutor(THREADS)
        return lambda first, last, into: list(threads.map(read, range(first, last)))


class Npy:
    name = "npy uint8, memory-mapped"

    def write(self, path: Path, probs: np.ndarray, raw: np.ndarray) -> None:
        path.mkdir()
        array = np.lib.format.open_memmap(path / "probs.npy", "w+", raw.dtype, raw.shape)
        for first in range(0, len(probs), AT_ONCE):
            array[first : first + AT_ONCE] = quantise(probs[first : first + AT_ONCE])
        array.flush()

    def open(self, path: Path) -> Read:
        array = np.load(path / "probs.npy", mmap_mode="r")
        return lambda first, last, into: np.copyto(into[: last - first], array[first:last])


FORMATS = [Ours(), Zarr(1, None), Zarr(1, 64), Zarr(16, None), Npy(), Npz()]


def measure(folder: Path, probs: np.ndarray) -> list[dict]:
    """A row per format; times are the best of ROUNDS interleaved rounds, with files in the page cache."""
    raw = quantise(probs)
    rows = [{"format": each.name, "write": [], "in order": [], "random": []} for each in FORMATS]
    order = np.random.default_rng(1).integers(0, len(probs), RANDOM_READS).tolist()
    into = np.zeros((AT_ONCE, *raw.shape[1:]), np.uint8)
    for turn in range(ROUNDS):
        for each, row in zip(FORMATS, rows, strict=True):
            path = folder / f"{turn}-{FORMATS.index(each)}"
            row["write"].append(seconds(lambda e=each, p=path: e.write(p, probs, raw)) / len(probs))
            read = each.open(path)
            row["in order"].append(seconds(lambda r=read: in_order(r, len(probs), into)) / len(probs))
            row["random"].append(seconds(lambda r=read: [r(i, i + 1, into) for i in order]) / len(order))
            if not isinstance(each, Npz) and not np.array_equal(into[0], raw[order[-1]]):
                raise AssertionError(f"{each.name} gives back other values")
            files = [file for file in path.rglob("*") if file.is_file()]
            row["KiB a tile"], row["files"] = sum(f.stat().st_size for f in files) / len(probs) / 1024, len(files)
    return rows


def in_order(read: Read, count: int, into: np.ndarray) -> None:
    for first in range(0, count, AT_ONCE):
        read(first, min(first + AT_ONCE, count), into)


def measure_codecs(raw: np.ndarray) -> list[dict]:
    """A row per codec: bytes as a share of the raw ones, tiles a second on one core, best of ROUNDS rounds."""
    numcodecs.blosc.use_threads = False
    codecs = {f"lz4, level {level}": Blosc("lz4", level, Blosc.NOSHUFFLE) for level in (5, 9)}
    codecs |= {"lz4 of shuffled bits, level 9": Blosc("lz4", 9, Blosc.BITSHUFFLE)}
    codecs |= {f"lz4hc, level {level}": Blosc("lz4hc", level, Blosc.NOSHUFFLE) for level in (1, 5)}
    codecs |= {f"zstd, level {level}": Zstd(level) for level in (1, 3)}
    into, rows = np.zeros_like(raw[0]), []
    for name, codec in codecs.items():
        frames = [codec.encode(tile) for tile in raw]
        write = min(seconds(lambda c=codec: [c.encode(tile) for tile in raw]) for _ in range(ROUNDS))
        read = min(seconds(lambda c=codec, f=frames: [c.decode(each, into) for each in f]) for _ in range(ROUNDS))
        size = sum(len(frame) for frame in frames) / raw.nbytes
        rows.append({"codec": name, "of raw": size, "write": len(raw) / write, "read": len(raw) / read})
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.store_formats", __doc__)
    parser.add_argument("--store", type=Path, metavar="PATH", help="use this store's tiles instead of drawn ones")
    add_json(parser)
    args = parser.parse_args(argv)
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise UserError("zarr is not installed; it is measured here only. Run: pip install zarr==3.1.6") from None
    if args.store:
        store = open_store(args.store)
        probs = read_many(store, range(min(len(store), TILES)))
        probs /= probs.sum(1, keepdims=True)
    else:
        rng = np.random.default_rng(0)
        probs = np.stack([draw_probs(rng) for _ in range(TILES)])
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), probs)
    flips = int((dequantise(quantise(probs)).argmax(1) != probs.argmax(1)).sum())
    title = f"{len(probs)} tiles of {'x'.join(map(str, probs.shape[1:]))}; {flips} argmax flips"
    columns = ("format", "KiB a tile", "files", "tiles/s: write", f"{AT_ONCE} at once", "one at random")
    formats = [
        (row["format"], f"{row['KiB a tile']:.0f}", str(row["files"]),
         *(f"{1 / min(row[what]):.0f}" for what in ("write", "in order", "random")))
        for row in rows
    ]  # fmt: skip
    codecs = [
        (row["codec"], f"{row['of raw']:.3f}", f"{row['write']:.0f}", f"{row['read']:.0f}")
        for row in measure_codecs(quantise(probs[:CODEC_TILES]))
    ]
    console = screen()
    console.print(text_table(title, columns, formats))
    console.print(text_table("codecs, one core", ("codec", "of raw", "tiles/s: write", "read"), codecs))
    write_figures(args.json, {
        f"{what}: {row['format']}": 1 / min(row[what]) for row in rows for what in ("write", "in order", "random")
    } | {f"KiB a tile: {row['format']}": row["KiB a tile"] for row in rows})  # fmt: skip


if __name__ == "__main__":
    run(main)
