"""Patches of a tile where the prediction contradicts the mask: connected regions of one (label, prediction) pair.

A wrongly labelled object shows as one patch, whatever it touches in the mask.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from config.data import IGNORE_INDEX

MIN_SHARE = 0.001  # of the tile: smaller patches are no objects
MIN_WIDTH_PX = 4  # across at the thickest place: thinner ones are borders drawn a little differently


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
