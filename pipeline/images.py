"""Predict any images, of any size, with members of a run: labels, and probabilities where they are asked for.

An image is predicted whole; one that is larger than a window, in windows that overlap (`pipeline/scene.py`): a scene of
any size needs the memory of its pixels and labels and of a row of windows; and of its probabilities where they are
asked for, or where small patches are cleaned.
"""

import argparse
import glob
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import get_args

import numpy as np
import rasterio
import torch
from rasterio.errors import RasterioError

from base.errors import UserError, refuse_all
from base.progress import bar
from config import Member, Run
from config.data import Nodata
from folds.classes import ClassTable
from folds.images import DTYPES, read_pixels
from folds.tiles import tiles_of
from pipeline.label_files import (
    LabelFormat,
    labels_path,
    probs_path,
    refuse_others_files,
    write_labels,
    write_probs,
)
from pipeline.members import LoadedMember, load_member
from pipeline.pixels import fill_value
from pipeline.scene import WINDOW_PX, PredictPixels, predict_scene

Strips = Iterable[np.ndarray]
"""What was predicted of an image: (C, h, W) float32 probabilities of the next h rows, from the top down."""
Decide = Callable[[Strips, int], tuple[np.ndarray | None, np.ndarray | None]]
"""Strips of an image, and its height -> its (C, H, W) probabilities, None where nobody wants them, and (H, W) indices,
None where it has no labels."""
BatchOf = Callable[[int, int], int]
"""Height and width of images -> how many of them go through at once."""
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


class Sheet:
    """Values of a whole image, filled from the top down; None until the first rows came."""

    def __init__(self, height: int) -> None:
        self.values: np.ndarray | None = None
        self._height, self._filled = height, 0

    def add(self, rows: np.ndarray) -> None:
        """
        Args:
            rows: (..., h, W).
        """
        if self.values is None:
            self.values = np.empty((*rows.shape[:-2], self._height, rows.shape[-1]), rows.dtype)
        self.values[..., self._filled : self._filled + rows.shape[-2], :] = rows
        self._filled += rows.shape[-2]


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
                found.append(Found(path, file.height, file.width))
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


def batches_of(run: Run) -> BatchOf:
    """`images_at_once` is of tiles of the run's size: of larger images fewer go through at once."""
    usual_px = float(tiles_of(run).eval("height * width").max())
    batch = run.experiment.images_at_once
    return lambda height, width: max(1, round(batch * min(1.0, usual_px / (height * width))))


def mean_of_members(run: Run, members: Sequence[LoadedMember], device: torch.device) -> PredictPixels:
    """A function from pixels to the mean of the members' probabilities."""
    batch_of = batches_of(run)
    settings = run.experiment.predict
    predictors = [
        loaded.predictor(settings, run.experiment.train_of(loaded.member.model).precision, device) for loaded in members
    ]

    def predict(pixels_NHWB: np.ndarray) -> np.ndarray:
        count, height, width, _ = pixels_NHWB.shape
        total_NCHW = np.float32(0)
        for predictor in predictors:
            batches = predictor.probs(pixels_NHWB, np.arange(count), batch_of(height, width))
            total_NCHW = total_NCHW + np.concatenate(list(batches))
        return total_NCHW / np.float32(len(members))

    return predict


def reader_for(loaded: LoadedMember, nodata: Nodata) -> ReadPixels:
    """A function from an image file to its pixels, filled as in the member's pack, and those without data."""

    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        image_HWB, empty_HW = read_pixels(path, nodata)
        image_HWB[empty_HW] = fill_value(np.array(loaded.preparation.mean), image_HWB.dtype)
        return image_HWB, empty_HW

    return read


def predict_images(
    found: Sequence[Found], read: ReadPixels, predict: PredictPixels, batch_of: BatchOf
) -> Iterator[tuple[Found, Strips, np.ndarray]]:
    """Each image with the strips predicted of it, to be taken before the next image, and its pixels without data.

    Images of one size go through together, as many as a batch of them has.
    """
    for (height, width), alike in groupby(found, key=lambda image: (image.height, image.width)):
        alike = list(alike)
        if max(height, width) > WINDOW_PX:
            for image in alike:
                pixels_HWB, empty_HW = read(image.path)
                yield image, predict_scene(pixels_HWB, predict), empty_HW
            continue
        batch = batch_of(height, width)
        for first in range(0, len(alike), batch):
            images = alike[first : first + batch]
            pixels, empty = zip(*(read(image.path) for image in images), strict=True)
            predicted = ([probs_CHW] for probs_CHW in predict(np.stack(pixels)))
            yield from zip(images, predicted, empty, strict=True)


def label_images(
    images: Iterator[tuple[Found, Strips, np.ndarray]],
    total: int,
    decide: Decide,
    classes: ClassTable,
    names: Sequence[str],
    wanted: Wanted,
) -> None:
    """Write what is wanted of each predicted image; `names` are those of the probabilities' channels.

    Where an image has no data, its labels are `ClassTable.blank_label` and its probabilities NaN.
    """
    progress, task = bar("predict images", total)
    with progress:
        for image, strips, empty_HW in images:
            probs_CHW, index_HW = decide(strips, image.height)
            if index_HW is not None:
                label_HW = np.where(empty_HW, np.uint8(classes.blank_label), classes.to_label(index_HW))
                write_labels(wanted.out, image.path, label_HW, classes, wanted.format)
            if wanted.probs:
                probs_CHW = np.where(empty_HW, np.float32(np.nan), probs_CHW)
                write_probs(wanted.out, image.path, probs_CHW, names)
            progress.advance(task)


def label_by_members(run: Run, members: Sequence[Member], wanted: Wanted, device: torch.device) -> int:
    """Label images by the mean of some members of one model; the number of images.

    Raises:
        UserError: members that are not trained, images that do not fit them, labels asked of a specialist.
    """
    loaded = [load_member(run, member, device) for member in members]
    record = loaded[0].record
    specialist = record.target != "all"
    if specialist and not wanted.probs:
        raise UserError(f"model {record.model} knows {record.target} only and gives no labels; ask for --probs")
    found = find_images(wanted, loaded[0].preparation.bands, record.dtype)
    read = reader_for(loaded[0], run.experiment.data.nodata)
    images = predict_images(found, read, mean_of_members(run, loaded, device), batches_of(run))

    def decide(strips: Strips, height: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        probs, index = Sheet(height), Sheet(height)
        for probs_CHW in strips:
            if wanted.probs:
                probs.add(probs_CHW)
            if not specialist:
                index.add(probs_CHW.argmax(0).astype(np.uint8))
        return probs.values, index.values

    label_images(images, len(found), decide, ClassTable.of(run.experiment.data), record.classes, wanted)
    return len(found)
