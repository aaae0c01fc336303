"""Patches of a tile where the prediction contradicts the mask: connected regions of one (label, prediction) pair.

A wrongly labelled object shows as one patch, whatever it touches in the mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from config.data import IGNORE_INDEX

MIN_SHARE = 0.001  # of the tile: smaller patches are no objects
MIN_WIDTH_PX = 4  # across at the thickest place: thinner ones are borders drawn a little differently
HABIT_STEP = 2  # every 2nd row and column enters the habits: neighbours say the same
FLOOR = 0.004  # a stored probability of 0 is below 1/510
# Bins of a probability, finer where it is small: between .001 and .01 lies as much as between .1 and .5.
EDGES = (0.004, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35)
FINE = 1000
BIN_OF = np.searchsorted(EDGES, np.arange(FINE + 1) / FINE, side="right").astype(np.uint8)  # a table is quicker


@dataclass(frozen=True)
class Habits:
    """How masks and predictions go together, by the probability of a class: counts of pixels of a regular sample."""

    agree_CCB: np.ndarray
    """[j, i, b]: mask and prediction are j, and the probability of i is in bin b."""
    differ_CCB: np.ndarray
    """[j, i, b]: the mask is i, the prediction j, and the probability of i is in bin b."""


@dataclass(frozen=True)
class Patch:
    """A connected region where prediction and mask disagree in one way."""

    label: int
    """Class index in the mask."""
    suggested: int
    """Class index that the prediction has there."""
    box: tuple[int, int, int, int]
    """Top, left, height, width in pixels."""
    px: int
    width_px: float
    """Across, at the thickest place."""
    p_label: float
    """Mean probability of the mask's class in the patch."""
    p_suggested: float


def find_patches(probs_CHW: np.ndarray, pred_HW: np.ndarray, truth_HW: np.ndarray) -> list[Patch]:
    """All patches of a tile that are large and thick enough to be objects."""
    num_classes = len(probs_CHW)
    wrong_HW = (pred_HW != truth_HW) & (truth_HW != IGNORE_INDEX)
    pair_HW = np.where(wrong_HW, truth_HW.astype(np.int32) * num_classes + pred_HW, -1)
    min_px = max(MIN_SHARE * pred_HW.size, MIN_WIDTH_PX**2)
    count = np.bincount(pair_HW[wrong_HW], minlength=num_classes**2)
    patches = []
    for pair in np.flatnonzero(count >= min_px):
        label, suggested = divmod(int(pair), num_classes)
        _, region_HW, stats, _ = cv2.connectedComponentsWithStats((pair_HW == pair).astype(np.uint8), connectivity=4)
        for region in range(1, len(stats)):
            left, top, width, height, px = (int(value) for value in stats[region])
            if px < min_px:
                continue
            box = np.s_[top : top + height, left : left + width]
            inside = region_HW[box] == region
            # Outside the tile is outside the patch: an object cut by the border is as thick as what is seen of it.
            distance = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)
            width_px = 2 * float(distance.max())
            if width_px < MIN_WIDTH_PX:
                continue
            p_label, p_suggested = (float(probs_CHW[c][box][inside].mean()) for c in (label, suggested))
            patches.append(Patch(label, suggested, (top, left, height, width), px, width_px, p_label, p_suggested))
    return patches


def probability_bin(p: float) -> int:
    return int(BIN_OF[round(float(np.clip(p, 0, 1)) * FINE)])


def habits_of(probs_CHW: np.ndarray, pred_HW: np.ndarray, truth_HW: np.ndarray) -> Habits:
    """The habits seen in one tile; those of many are their sum."""
    num_classes, num_bins = len(probs_CHW), len(EDGES) + 1
    step = np.s_[::HABIT_STEP, ::HABIT_STEP]
    pred_P, truth_P = pred_HW[step].ravel().astype(np.int64), truth_HW[step].ravel()
    bin_CP = BIN_OF[(probs_CHW[:, ::HABIT_STEP, ::HABIT_STEP].reshape(num_classes, -1) * FINE + 0.5).astype(np.int32)]
    right = np.flatnonzero(truth_P == pred_P)
    wrong = np.flatnonzero((truth_P != pred_P) & (truth_P != IGNORE_INDEX))
    right_cell_P = pred_P[right] * num_bins
    agree_CCB = np.stack(
        [np.bincount(right_cell_P + bin_P[right], minlength=num_classes * num_bins) for bin_P in bin_CP]
    )
    label_P = truth_P[wrong].astype(np.int64)
    cell_P = (pred_P[wrong] * num_classes + label_P) * num_bins + bin_CP[label_P, wrong]
    differ_CCB = np.bincount(cell_P, minlength=num_classes**2 * num_bins).reshape(num_classes, num_classes, num_bins)
    agree_CCB = agree_CCB.reshape(num_classes, num_classes, num_bins).swapaxes(0, 1)
    return Habits(agree_CCB.astype(np.int32), differ_CCB.astype(np.int32))


def summed(habits: Sequence[Habits]) -> Habits:
    # One tile's counts fit in 32 bits; those of thousands of large ones do not.
    zero = np.int64(0)
    return Habits(sum((each.agree_CCB for each in habits), zero), sum((each.differ_CCB for each in habits), zero))
