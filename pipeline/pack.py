"""Tiles decoded once into memory-mapped arrays, which all members and processes share through the page cache.

    runs/packs/<fingerprint>/  train_image.npy  train_mask.npy  test_image.npy  pack.json

The fingerprint covers the folder of the data, the names, sizes and times of its files, and the class table, so a pack
is never edited: other sources give another pack.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from base.command import run, stage_parser
from base.errors import UserError, refuse_all
from base.files import hash_value, read_json, write_json, write_npy_head
from base.locks import make_once
from base.threads import track_in_threads
from config import Run, load_experiment, open_run
from folds.images import full_scale
from folds.reader import TileReader
from folds.tiles import make_tiles, sources_of
from pipeline.pixels import fill_value, has_spread

FORMAT = 2  # raised when the arrays' meaning changes, so that older packs are not taken for new ones


@dataclass(frozen=True)
class Pack:
    """The pixels of a tile table, in its order. Arrays are memory-mapped and read-only."""

    train_names: list[str]
    test_names: list[str]
    train_image_NHWB: np.ndarray
    train_mask_NHW: np.ndarray
    """uint8 indices; 255: ignored."""
    test_image_NHWB: np.ndarray
    mean_B: np.ndarray
    """Of the train tiles, with integer dtypes scaled to 0..1."""
    std_B: np.ndarray

    @property
    def size_px(self) -> tuple[int, int]:
        return self.train_mask_NHW.shape[1:]


def read_rows(array_N: np.ndarray, row_N: np.ndarray, rows_N: np.ndarray | None = None) -> np.ndarray:
    """Rows of a packed array in the order asked for, copied.

    Args:
        rows_N: where to; None: a new array.

    A memory map is read like a file: pages touched through it would count as this process's memory, a gigabyte for
    4,000 tiles, and prediction visits every tile once.
    """
    rows_N = np.empty((len(row_N), *array_N.shape[1:]), array_N.dtype) if rows_N is None else rows_N
    if not isinstance(array_N.base, mmap.mmap):  # no map, or a part of one, whose offset numpy does not tell
        return np.take(array_N, row_N, axis=0, out=rows_N, mode="clip")  # raise would go through a buffer
    with open(array_N.filename, "rb", buffering=0) as file:
        for row, into in zip(row_N, rows_N, strict=True):
            file.seek(array_N.offset + int(row) * into.nbytes)
            if file.readinto(into) != into.nbytes:
                raise UserError(f"{array_N.filename}: cut short. Delete its folder and run the same command again")
    return rows_N


def open_pack(run: Run, tiles: pd.DataFrame) -> Pack:
    """The pack of a tile table; made now if it is not there.

    Raises:
        UserError: images or masks have changed since the run's table was made; or the pack is not as it was written.
    """
    folder = pack_dir(run, sources_of(run, tiles))
    make_once(folder, lambda aside: write_pack(aside, tiles, TileReader.of(run.experiment.data)))
    return _read_pack(folder, tiles)


def pack_dir(run: Run, sources: str) -> Path:
    """Where the pack of a tile table lies, or would lie.

    Args:
        sources: `folds.tiles.sources_hash` of the table.
    """
    data = run.experiment.data
    reader = TileReader.of(data)
    fingerprint = hash_value([FORMAT, reader.folder, sources, *reader.coding, len(data.bands)])
    return run.packs_dir / fingerprint[:16]


def write_pack(folder: Path, tiles: pd.DataFrame, reader: TileReader) -> None:
    """The files of a pack; a few tiles are in memory at a time."""
    train, test = tiles[tiles.split == "train"], tiles[tiles.split == "test"]
    sums = _BandSums()
    empty_at: dict[str, dict[int, np.ndarray]] = {"train": {}, "test": {}}

    def read(image: str) -> tuple[np.ndarray, np.ndarray | None, _BandSums]:
        image_HWB, empty_HW = reader.image(image)
        return image_HWB, np.packbits(empty_HW) if empty_HW.any() else None, _BandSums.of(image_HWB[~empty_HW])

    def images(split: str, paths: Sequence[str]) -> Iterator[np.ndarray]:
        nonlocal sums
        decoded = track_in_threads(read, paths, f"pack {split} images")
        for row, (image_HWB, empty, sums_of_it) in enumerate(decoded):
            if empty is not None:
                empty_at[split][row] = empty
            if split == "train":
                sums += sums_of_it
            yield image_HWB

    _write_array(folder / "train_image.npy", images("train", train.image.tolist()), len(train))
    files = zip(train.image, train["mask"], strict=True)
    truth = track_in_threads(lambda each: reader.truth(*each), files, "pack masks", total=len(train))
    _write_array(folder / "train_mask.npy", truth, len(train))
    if len(test):
        _write_array(folder / "test_image.npy", images("test", test.image.tolist()), len(test))
    mean_B, std_B = sums.mean_std()
    for split, empty_of in empty_at.items():
        if empty_of:
            _fill(folder / f"{split}_image.npy", empty_of, mean_B)
    arrays = sorted(folder.glob("*.npy"))
    for path in arrays:  # or a machine that fails leaves a pack whose arrays are holes
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    sizes = {path.name: path.stat().st_size for path in arrays}
    write_json(folder / "pack.json", {"mean": mean_B.tolist(), "std": std_B.tolist(), "bytes": sizes})


def _read_pack(folder: Path, tiles: pd.DataFrame) -> Pack:
    stats = read_json(folder / "pack.json")
    found = {path.name: path.stat().st_size for path in folder.glob("*.npy")}
    refuse_all(
        f"pack {folder} is damaged; delete it and run the same command again, which packs anew",
        [
            f"{name} has {found.get(name, 0)} bytes of {size}"
            for name, size in stats.get("bytes", {}).items()  # packs of older versions do not say
            if found.get(name) != size
        ],
    )
    train_image = np.load(folder / "train_image.npy", mmap_mode="r")
    test_path = folder / "test_image.npy"
    return Pack(
        train_names=tiles.name[tiles.split == "train"].tolist(),
        test_names=tiles.name[tiles.split == "test"].tolist(),
        train_image_NHWB=train_image,
        train_mask_NHW=np.load(folder / "train_mask.npy", mmap_mode="r"),
        test_image_NHWB=np.load(test_path, mmap_mode="r") if test_path.exists() else train_image[:0],
        mean_B=np.array(stats["mean"]),
        std_B=np.array(stats["std"]),
    )


def _fill(path: Path, empty_of: dict[int, np.ndarray], mean_B: np.ndarray) -> None:
    """Put the fill value into the pixels without data: the mean is known only when all tiles have been read.

    Args:
        empty_of: row -> its (H, W) pixels, packed.
    """
    array_NHWB = np.load(path, mmap_mode="r")
    height, width = array_NHWB.shape[1:3]
    with open(path, "r+b") as file:
        for row, packed in empty_of.items():
            empty_HW = np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)
            image_HWB = array_NHWB[row].copy()
            image_HWB[empty_HW] = fill_value(mean_B, image_HWB.dtype)
            file.seek(array_NHWB.offset + row * image_HWB.nbytes)
            file.write(image_HWB.data)


def _write_array(path: Path, tiles: Iterable[np.ndarray], count: int) -> None:
    """Write equally shaped tiles as one .npy, in order. Not through a memory map: a full disk would be a SIGBUS."""
    with open(path, "wb") as file:
        first = None
        for tile in tiles:
            if first is None:
                first = tile
                write_npy_head(file, tile, count)
            if tile.dtype != first.dtype:
                raise UserError(f"tiles of dtype {tile.dtype} and {first.dtype}: a data set has one dtype")
            file.write(np.ascontiguousarray(tile).data)


@dataclass(frozen=True)
class _BandSums:
    """Of pixels, with integer dtypes scaled to 0..1, in float64."""

    count: int = 0
    sum_B: np.ndarray | float = 0.0
    square_B: np.ndarray | float = 0.0

    @classmethod
    def of(cls, pixels_PB: np.ndarray) -> "_BandSums":
        pixels = pixels_PB.astype(np.float64) / full_scale(pixels_PB.dtype)
        return cls(len(pixels), pixels.sum(0), np.square(pixels).sum(0))

    def __add__(self, other: "_BandSums") -> "_BandSums":
        return _BandSums(self.count + other.count, self.sum_B + other.sum_B, self.square_B + other.square_B)

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation per band."""
        mean_B = self.sum_B / self.count
        std_B = np.sqrt(np.maximum(self.square_B / self.count - mean_B**2, 0))
        return mean_B, np.where(has_spread(mean_B, std_B), std_B, 1.0)  # by 1: a dead band becomes 0


def main(argv: list[str] | None = None) -> None:
    args = stage_parser("pipeline.pack", "Decode all tiles once into memory-mapped arrays.").parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    pack = open_pack(run, make_tiles(run))
    mebibytes = (pack.train_image_NHWB.nbytes + pack.train_mask_NHW.nbytes + pack.test_image_NHWB.nbytes) / 2**20
    print(f"pack: {len(pack.train_names)} train and {len(pack.test_names)} test tiles, {mebibytes:.0f} MiB")


if __name__ == "__main__":
    run(main)
