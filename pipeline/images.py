"""Predict any images, of any size, with members of a run: labels, and probabilities where they are asked for.

An image is predicted whole; one that is larger than a window, in windows that overlap (`pipeline/scene.py`): a scene of
any size needs the memory of its pixels and labels and of a row of windows; and of its probabilities where they are
asked for, or where small patches are cleaned.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch

from base.errors import UserError
from base.progress import bar
from config import Member, Run
from folds.classes import ClassTable
from folds.tiles import tiles_of
from pipeline.batch_norms import PixelSample, batch_before_prediction
from pipeline.image_files import Found, ReadPixels, Wanted, find_images, reader_for
from pipeline.image_sample import sample_of_images
from pipeline.label_files import write_labels, write_probs
from pipeline.members import LoadedMember, load_member, record_of_trained
from pipeline.prepare import Preparation
from pipeline.record import MemberRecord
from pipeline.scene import WINDOW_PX, PredictPixels, predict_scene

Strips = Iterable[np.ndarray]
"""What was predicted of an image: (C, h, W) float32 probabilities of the next h rows, from the top down."""
Decide = Callable[[Strips, int], tuple[np.ndarray | None, np.ndarray | None]]
"""Strips of an image, and its height -> its (C, H, W) probabilities, None where nobody wants them, and (H, W) indices,
None where it has no labels."""
PredictOf = Callable[[PixelSample | None], PredictPixels]
"""What batch norms are to go by, or None -> what predicts."""
BatchOf = Callable[[int, int], int]
"""Height and width of images -> how many of them go through at once."""


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


def batches_of(run: Run) -> BatchOf:
    """`images_at_once` is of tiles of the run's size: of larger images fewer go through at once."""
    usual_px = float(tiles_of(run).eval("height * width").max())
    batch = run.experiment.images_at_once
    return lambda height, width: max(1, round(batch * min(1.0, usual_px / (height * width))))


def adaptation_to(run: Run, found: Sequence[Found], read: ReadPixels) -> PixelSample | None:
    """What the members' batch norms go by where `predict.adapt` asks for it."""
    if not run.experiment.predict.adapt:
        return None
    tiles = tiles_of(run)
    tile_px = int(tiles.height.max()), int(tiles.width.max())
    return sample_of_images(found, read, tile_px, batch_before_prediction(run.experiment.jobs.split_batch))


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
    run: Run, wanted: Wanted, record: MemberRecord, predict_of: PredictOf, decide: Decide, names: Sequence[str]
) -> int:
    """Predict the images that are wanted, and write what is wanted of each; the number of images.

    Where an image has no data, its labels are `ClassTable.blank_label` and its probabilities NaN.

    Args:
        record: of one of the members that predict; all want their pixels alike.
        names: of the channels of what `decide` gives.

    Raises:
        UserError: images that do not fit the members, and what `predict_of` raises.
    """
    preparation = Preparation(**record.preparation)
    classes, read = ClassTable.of(run.experiment.data), reader_for(preparation, run.experiment.data.nodata)
    found = find_images(wanted, preparation.bands, record.dtype)
    predict = predict_of(adaptation_to(run, found, read))
    progress, task = bar("predict images", len(found))
    with progress:
        for image, strips, empty_HW in predict_images(found, read, predict, batches_of(run)):
            probs_CHW, index_HW = decide(strips, image.height)
            if index_HW is not None:
                label_HW = np.where(empty_HW, np.uint8(classes.blank_label), classes.to_label(index_HW))
                write_labels(wanted.out, image.path, label_HW, classes, wanted.format)
            if wanted.probs:
                probs_CHW = np.where(empty_HW, np.float32(np.nan), probs_CHW)
                write_probs(wanted.out, image.path, probs_CHW, names)
            progress.advance(task)
    return len(found)


def label_by_members(run: Run, members: Sequence[Member], wanted: Wanted, device: torch.device) -> int:
    """Label images by the mean of some members of one model; the number of images.

    Raises:
        UserError: members that are not trained, images that do not fit them, labels asked of a specialist.
    """
    record = record_of_trained(run, members[0])
    specialist = record.target != "all"
    if specialist and not wanted.probs:
        raise UserError(f"model {record.model} knows {record.target} only and gives no labels; ask for --probs")

    def predict_of(adapt_to: PixelSample | None) -> PredictPixels:
        return mean_of_members(run, [load_member(run, member, device, adapt_to) for member in members], device)

    def decide(strips: Strips, height: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        probs, index = Sheet(height), Sheet(height)
        for probs_CHW in strips:
            if wanted.probs:
                probs.add(probs_CHW)
            if not specialist:
                index.add(probs_CHW.argmax(0).astype(np.uint8))
        return probs.values, index.values

    return label_images(run, wanted, record, predict_of, decide, record.classes)
