"""The images that somebody wants labelled: what a command was asked for, the files that match, their pixels."""

import argparse
import glob
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from base.errors import UserError, refuse_all
from config.data import Nodata
from folds.images import DTYPES, read_pixels
from pipeline.label_files import LabelFormat, labels_path, probs_path, refuse_others_files
from pipeline.pixels import fill_value
from pipeline.prepare import Preparation

ReadPixels = Callable[[Path], tuple[np.ndarray, np.ndarray]]
"""An image file -> (H, W, B) pixels, and (H, W) bool: those without data."""


@dataclass(frozen=True)
class Wanted:
    """What a command was asked for."""

    images: str
    """Glob."""
    out: Path
    format: LabelFormat
    probs: bool


def add_image_options(parser: argparse._ArgumentGroup, required: bool) -> None:
    """--images, --out, --format, --probs."""
    parser.add_argument("--images", metavar="GLOB", required=required, help="images of any size, of the run's bands")
    parser.add_argument("--out", metavar="DIR", type=Path, required=required, help="where to write their labels")
    parser.add_argument(
        "--format",
        choices=get_args(LabelFormat),
        default="png",
        help="geotiff: with the images' coordinates and the classes' colours (default: %(default)s)",
    )
    parser.add_argument("--probs", action="store_true", help="their probabilities too, as <name>.probs.tif")


def wanted_of(args: argparse.Namespace) -> Wanted:
    if not args.out:
        raise UserError("--images needs --out DIR")
    return Wanted(args.images, args.out, args.format, args.probs)


@dataclass(frozen=True)
class Found:
    """An image file, as its header describes it."""

    path: Path
    height: int
    width: int
    pixel_bytes: int
    """Of one pixel's bands."""


def find_images(wanted: Wanted, bands: Sequence[str], dtype: str) -> list[Found]:
    """The images of a glob, by size and name.

    Raises:
        UserError: none; lists names that stand for two files, unreadable files, other bands or another dtype; or files
            of somebody else's that stand where labels or probabilities are to be written.
    """
    pattern = wanted.images
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    if not paths:
        raise UserError(f"--images {pattern}: nothing matches in {Path.cwd()}")
    named = Counter(path.stem for path in paths)
    problems = [f"{path}: another file has the name {path.stem} too" for path in paths if named[path.stem] > 1]
    found = []
    for path in paths:
        try:
            with rasterio.open(path) as file:
                found.append(Found(path, file.height, file.width, file.count * np.dtype(dtype).itemsize))
                if file.count != len(bands):
                    problems.append(f"{path}: {file.count} bands; the members know {', '.join(bands)}")
                if DTYPES.get(file.dtypes[0]) != dtype:
                    problems.append(f"{path}: {file.dtypes[0]}; the members were trained on {dtype}")
        except RasterioError as error:
            problems.append(f"{path}: unreadable ({str(error)[:100]})")
    refuse_all(f"--images {pattern}", problems)
    written = [labels_path(wanted.out, path, wanted.format) for path in paths]
    refuse_others_files(wanted.out, written + [probs_path(wanted.out, path) for path in paths if wanted.probs])
    return sorted(found, key=lambda image: (image.height, image.width, image.path))


def reader_for(preparation: Preparation, nodata: Nodata) -> ReadPixels:
    """A function from an image file to its pixels, filled as in the member's pack, and those without data."""

    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        image_HWB, empty_HW = read_pixels(path, nodata)
        image_HWB[empty_HW] = fill_value(np.array(preparation.mean), image_HWB.dtype)
        return image_HWB, empty_HW

    return read
