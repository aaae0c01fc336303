"""Post-processing of label maps: small patches give way, small holes are filled.

A patch is a set of pixels of one label connected by their sides. Each is judged on the map as it was predicted, so the
order in which patches are looked at changes nothing, and a flipped tile gives the flipped result.
"""

import numpy as np
from skimage.measure import label as connected

from ensemble.fitted import FittedBlend
from ensemble.labels import class_order, top_class


def patches(index_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The patches of a label map.

    Returns:
        (H, W) patch numbers 0..R-1, (R,) their sizes in pixels, (R,) their classes, (R,) the class each is a hole in:
        of all its neighbours, if they are of one class and it does not touch the tile's border; else -1.
    """
    patch_HW = connected(index_HW.astype(np.int32) + 1, background=0, connectivity=1) - 1
    size_R = np.bincount(patch_HW.ravel())
    class_R = np.zeros(len(size_R), np.int64)
    class_R[patch_HW.ravel()] = index_HW.ravel()
    least_R = np.full(len(size_R), 256, np.int64)
    most_R = np.full(len(size_R), -1, np.int64)
    for patch, other in ((patch_HW, index_HW), (patch_HW.T, index_HW.T)):
        for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])):
            crosses = patch[here] != patch[there]
            inside, outside = patch[here][crosses], other[there][crosses]
            np.minimum.at(least_R, inside, outside)
            np.maximum.at(most_R, inside, outside)
    hole_in_R = np.where(least_R == most_R, most_R, -1)
    for border in (patch_HW[0], patch_HW[-1], patch_HW[:, 0], patch_HW[:, -1]):
        hole_in_R[border] = -1  # what lies beyond the tile is not known
    return patch_HW, size_R, class_R, hole_in_R


def clean_labels(blend: FittedBlend, index_HW: np.ndarray, score_CHW: np.ndarray) -> np.ndarray:
    """The label map without holes smaller than `hole_px_C` of the class around them, nor other patches smaller than
    `min_px_C` of their own class, whose pixels each take the class of the next best score."""
    patch_HW, size_R, class_R, hole_in_R = patches(index_HW)
    min_px_C, hole_px_C = np.array(blend.min_px_C), np.array(blend.hole_px_C)
    filled_R = (hole_in_R >= 0) & (size_R < hole_px_C[hole_in_R])
    gone_R = ~filled_R & (size_R < min_px_C[class_R])
    cleaned_HW = np.where(filled_R[patch_HW], hole_in_R[patch_HW], index_HW).astype(np.uint8)
    gone_HW = gone_R[patch_HW]
    cleaned_HW[gone_HW] = next_best(score_CHW[:, gone_HW], index_HW[gone_HW], class_order(blend.classes))
    return cleaned_HW


def next_best(score_CP: np.ndarray, index_P: np.ndarray, order: list[int]) -> np.ndarray:
    """(P,) the best class other than the one given."""
    score_CP = score_CP.copy()
    np.put_along_axis(score_CP, index_P[None].astype(np.intp), -np.inf, axis=0)
    return top_class(score_CP, order)
