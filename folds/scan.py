"""One pass over all pixels, which keeps the little that folds and audits need of each tile.

    runs/scans/<fingerprint>/   one .npy per field of `Scan`

Mosaic recovery, the duplicate search and the data audit start from here: the tiles are read once, and what is kept of
each, borders and a thumbnail (about 25 KiB of a tile of 256x256x4), goes to the disk as it comes.
"""

import hashlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from base.errors import UserError, listed, refuse_all
from base.files import hash_value, write_npy_head
from base.locks import make_once
from base.threads import track_in_threads
from config import Run
from config.data import IGNORE_INDEX, Nodata
from folds.cells import cell_means
from folds.reader import TileReader, ignore_empty

FORMAT = 4  # raised when a field changes its meaning, so that older scans are not taken for new ones
THUMB_CELLS = 32
SAMPLE_PX = 64
LEAST_PX = 8  # of a side: below it there is nothing that borders and thumbnails could tell


@dataclass(frozen=True)
class Scan:
    """What is kept of every tile, in the order of the table that `scan_tiles` was given."""

    hist_NC: np.ndarray
    """int64 pixels per class; zeros for a tile without mask."""
    size_N2: np.ndarray
    """Height and width in pixels."""
    data_N: np.ndarray
    """int64 pixels with data. Those without count in no statistic below; where there are no others, all are 0."""
    mean_NB: np.ndarray
    std_NB: np.ndarray
    zero_NB: np.ndarray
    """Share of pixels that are 0."""
    full_NB: np.ndarray
    """Share of pixels at the integer dtype's largest value; 0 for floats."""
    digest_N: np.ndarray
    """sha256 of size and pixels, without data 0: equal for exact copies."""
    mask_digest_N: np.ndarray
    """sha256 of the mask's class indices; zeros for a tile without mask."""
    sample_NPB: np.ndarray
    """Pixels of a regular grid, for percentiles; own dtype."""
    thumb_NEEB: np.ndarray
    """float32 means over E x E cells of equal area."""
    right_N2HB: np.ndarray
    """Last and second-last column; own dtype, as the other three."""
    left_N2HB: np.ndarray
    """First and second column."""
    bottom_N2WB: np.ndarray
    """Last and second-last row."""
    top_N2WB: np.ndarray
    """First and second row."""

    @property
    def dtype(self) -> np.dtype:
        return self.right_N2HB.dtype


def open_scan(run: Run, found: pd.DataFrame, sources: str) -> Scan:
    """The scan of a table of files (columns image, mask, split); made now if it is not there.

    Args:
        sources: `folds.tiles.sources_hash` of the table.
    """
    data = run.experiment.data
    reader = TileReader.of(data)
    fingerprint = hash_value([FORMAT, reader.folder, sources, *reader.coding, len(data.bands)])
    folder = run.scans_dir / fingerprint[:16]
    make_once(folder, lambda aside: scan_tiles(found, reader, len(data.bands), aside))
    return read_scan(folder)


def read_scan(folder: Path) -> Scan:
    """The arrays that `scan_tiles` left, memory-mapped."""
    return Scan(*(np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(Scan)))


def scan_tiles(found: pd.DataFrame, reader: TileReader, bands: int, folder: Path) -> None:
    """Read every tile of the table once, and write what is kept of it to `folder`, tile by tile.

    Raises:
        UserError: lists every unreadable file, size, dtype or band count that differs, and unknown label.
    """
    jobs = [(row.image, row.mask if row.split == "train" else None) for row in found.itertuples()]
    scanned = track_in_threads(lambda job: _scan_tile(reader, *job, bands), jobs, "read tiles")
    sizes, dtypes, found_wrong = [], [], []
    with ExitStack() as stack:
        files = {field.name: stack.enter_context(open(folder / f"{field.name}.npy", "wb")) for field in fields(Scan)}
        for n, (row, wrong) in enumerate(scanned):
            found_wrong += wrong
            sizes.append("x".join(map(str, row["size_N2"])) if row else None)
            dtypes.append(str(row["sample_NPB"].dtype) if row else None)
            # With a tile that cannot be read, or is unlike the first, all of it is refused below.
            if row and (sizes[-1], dtypes[-1]) == (sizes[0], dtypes[0]):
                _append(files, row, len(jobs), is_first=n == 0)
    problems = _gathered(found_wrong)
    odd_sizes = _odd_ones("size", found.image, sizes)
    problems += [f"{each}; python -m folds.cut makes tiles of scenes of any size" for each in odd_sizes]
    problems += _odd_ones("dtype", found.image, dtypes)
    problems += _never(reader.nodata, next(filter(None, dtypes), "float32"))
    small = sorted({size for size in sizes if size and min(map(int, size.split("x"))) < LEAST_PX})
    if small:
        problems.append(f"tiles of {listed(small)} px are too small: a side has {LEAST_PX} or more")
    refuse_all(f"tiles in {reader.root}: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}", problems)


def _append(files: dict[str, BinaryIO], row: dict[str, np.ndarray], count: int, is_first: bool) -> None:
    """A tile's fields to the arrays of `count` tiles; the first one says of what shape and dtype they are."""
    for name, value in row.items():
        if is_first:
            write_npy_head(files[name], value, count)
        files[name].write(value.tobytes())


def _scan_tile(
    reader: TileReader, image: str, mask: str | None, bands: int
) -> tuple[dict | None, list[tuple[str, str]]]:
    """The fields of one tile, and (file, what is wrong with it); None where the image cannot be used."""
    row, problems = None, []
    try:
        image_HWB, empty_HW = reader.image(image)
        if image_HWB.shape[2] == bands:
            row = fields_of(image_HWB, empty_HW) | fields_without_mask(len(reader.classes))
        else:
            problems.append((image, f"{image_HWB.shape[2]} bands, data.bands names {bands}"))
    except UserError as error:
        problems.append((image, _what(reader.root / image, error)))
    if mask is None:
        return row, problems
    try:
        index_HW = reader.classes.read_index(reader.root / mask)
    except UserError as error:
        return row, [*problems, (mask, _what(reader.root / mask, error))]
    if row and index_HW.shape != tuple(row["size_N2"]):
        height, width = row["size_N2"]
        problems.append((mask, f"{index_HW.shape[0]}x{index_HW.shape[1]}, its image is {height}x{width}"))
    if row:
        ignore_empty(index_HW, empty_HW)
        row["hist_NC"] = np.bincount(index_HW[index_HW != IGNORE_INDEX], minlength=len(reader.classes))
        row["mask_digest_N"] = np.array(hashlib.sha256(index_HW.tobytes()).hexdigest())
    return row, problems


def _what(path: Path, error: UserError) -> str:
    """An error of a file without the path that it begins with."""
    return str(error).removeprefix(f"{path}: ")


def _gathered(problems: list[tuple[str, str]]) -> list[str]:
    """(file, what is wrong) -> a sentence for each thing that is wrong: a whole data set can have the same."""
    files_with: dict[str, list[str]] = {}
    for file, what in problems:
        files_with.setdefault(what, []).append(file)
    return [
        f"{files[0]}: {what}" if len(files) == 1 else f"{len(files)} files: {what} ({listed(files, 5)})"
        for what, files in files_with.items()
    ]


def fields_of(image_HWB: np.ndarray, empty_HW: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The fields of `Scan` that come from the image, for one tile. Pixels without data count in none but the hash."""
    height, width, bands = image_HWB.shape
    pixels_PB = image_HWB.reshape(-1, bands)
    digest = hashlib.sha256(np.array([height, width], "<i8").tobytes() + image_HWB.tobytes()).hexdigest()
    if empty_HW is not None and empty_HW.any() and not empty_HW.all():
        pixels_PB = image_HWB[~empty_HW]
        # Where borders and thumbnails are compared, a tile's own mean is no edge and is like no other tile's.
        image_HWB = np.where(empty_HW[..., None], pixels_PB.mean(0).astype(image_HWB.dtype), image_HWB)
    largest = np.iinfo(image_HWB.dtype).max if image_HWB.dtype.kind == "u" else np.inf
    # Of a band of one value exactly: the mean of floats is a bit off, and so they would seem to vary.
    constant_B = (pixels_PB == pixels_PB[0]).all(0)
    grid = np.linspace(0, len(pixels_PB) - 1, SAMPLE_PX).astype(np.int64)
    size = np.array([height, width])
    return {
        "size_N2": size,
        "data_N": np.array(0 if empty_HW is not None and empty_HW.all() else len(pixels_PB), np.int64),
        "mean_NB": np.where(constant_B, pixels_PB[0], pixels_PB.mean(0, dtype=np.float64)),
        "std_NB": np.where(constant_B, 0.0, pixels_PB.std(0, dtype=np.float64)),
        "zero_NB": (pixels_PB == 0).mean(0),
        "full_NB": (pixels_PB == largest).mean(0),
        "digest_N": np.array(digest),
        "sample_NPB": pixels_PB[grid],
        "thumb_NEEB": cell_means(image_HWB, min(THUMB_CELLS, height, width)),
        "right_N2HB": image_HWB[:, :-3:-1].swapaxes(0, 1).copy(),
        "left_N2HB": image_HWB[:, :2].swapaxes(0, 1).copy(),
        "bottom_N2WB": image_HWB[:-3:-1].copy(),
        "top_N2WB": image_HWB[:2].copy(),
    }


def fields_without_mask(num_classes: int) -> dict[str, np.ndarray]:
    """The fields of `Scan` that come from the mask, for a tile that has none."""
    return {"hist_NC": np.zeros(num_classes, np.int64), "mask_digest_N": np.array("0" * 64)}


def _never(nodata: Nodata, dtype: str) -> list[str]:
    """`data.nodata` that no pixel can have."""
    if nodata is None or np.dtype(dtype).kind == "f":
        return []
    top = np.iinfo(dtype).max
    if nodata != "nan" and 0 <= nodata <= top and nodata == int(nodata):
        return []
    return [f"data.nodata={nodata if nodata == 'nan' else f'{nodata:g}'} is no value of {dtype} (0 to {top})"]


def _odd_ones(what: str, images: pd.Series, values: list[str | None]) -> list[str]:
    """One problem that lists the tiles whose value is not the usual one."""
    counts = Counter(value for value in values if value)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    odd = [f"{image} {value}" for image, value in zip(images, values, strict=True) if value not in (None, usual)]
    return [f"a data set has one {what}, and {len(odd)} tiles are not {usual} like the others: {listed(odd)}"]
