"""What the mean over folds adds to a blend on test tiles, estimated without their labels.

A train tile is labelled by those members of each model that never saw it, one per seed; a test tile by the mean over
the members of all folds, which is better. So even where test tiles are like train tiles, a board says more than the
honest score. By how much cannot be counted on train tiles: all members but one fold's have seen them. But it can be
expected: on some test tiles the members' own predictions are kept, and there

* the blend labels the tiles from the means, and once for each fold from that fold's members alone, by the rule fitted
  without that fold: the honest score's way;
* the blend's probabilities of the means, p^(1/T), take the place of the truth. T is the temperature at which the labels
  of the second kind come, in expectation, to the honest mIoU, which is counted from masks;
* the labels of the first kind are then worth more by the difference.

It is rough: it holds as far as the means' probabilities are right about where, not how surely, the folds' labels are
wrong. Beside true labels it was within half of the gain (docs/results.md). And it hangs on the honest mIoU, the more so
the more the folds differ: hence its interval, what comes out over the honest one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq

from base.threads import track_in_threads
from ensemble.apply import apply_tile
from ensemble.evidence import Estimate
from ensemble.fitted import FittedBlend
from ensemble.formulas import FLOOR, tempered
from ensemble.source import Source
from folds.metrics import iou_of_counts

PIXELS = 4096  # of a tile, evenly spread
SHARPEST, FLATTEST = 1 / 32, 8.0  # temperatures between which the one is sought


@dataclass(frozen=True)
class Opinions:
    """P pixels of test tiles, as the blend sees them."""

    probs_CP: np.ndarray
    """By the blend, from the means over folds; float32."""
    mean_P: np.ndarray
    """Labels from the means: those of the zip."""
    fold_LP: list[np.ndarray]
    """Labels from the members of each fold alone."""


def fold_mean_gain(opinions: Opinions, honest: Estimate, counted_C: np.ndarray) -> Estimate | None:
    """mIoU that the labels from the means are worth above those from one fold's members.

    Args:
        honest: mIoU of the blend on train tiles.
        counted_C: bool, the classes that it is the mean over.

    Returns:
        Its interval is from the least to the most by `honest` and its ends. None where no temperature brings the labels
        of single folds to one of these three: what any score explains is no estimate.
    """
    ratio_CP = over_largest(opinions.probs_CP)
    low, high = np.log(SHARPEST), np.log(FLATTEST)

    @cache  # three searches, of which each begins at both ends
    def of_folds(log_t: float) -> float:
        return expected_miou(tempered(ratio_CP, float(np.exp(log_t))), opinions.fold_LP, counted_C)

    def gain_at(miou: float) -> float:
        log_t = brentq(lambda log_t: of_folds(log_t) - miou, low, high, xtol=1e-3)
        return expected_miou(tempered(ratio_CP, float(np.exp(log_t))), [opinions.mean_P], counted_C) - of_folds(log_t)

    mious = (honest.value, honest.low, honest.high)
    if not all(of_folds(low) >= miou >= of_folds(high) for miou in mious):  # nor are NaN, the ends of no interval
        return None
    gains = [gain_at(miou) for miou in mious]
    return Estimate(gains[0], min(gains), max(gains))


def expected_miou(posterior_CP: np.ndarray, label_LP: Sequence[np.ndarray], counted_C: np.ndarray) -> float:
    """mIoU of the expected counts of L labellings of the same pixels, pooled; the truth is drawn from a posterior.

    A pixel labelled c is a hit with probability p_c; class c holds the sum of p_c pixels.
    """
    num_classes, num_pixels = posterior_CP.shape
    hit_C, said_C = np.zeros(num_classes), np.zeros(num_classes)
    for label_P in label_LP:
        hit_C += np.bincount(label_P, posterior_CP[label_P, np.arange(num_pixels)], num_classes)
        said_C += np.bincount(label_P, minlength=num_classes)
    union_C = said_C + len(label_LP) * posterior_CP.sum(1, dtype=np.float64) - hit_C
    return float(iou_of_counts(hit_C, union_C)[counted_C].mean())


def over_largest(probs_CP: np.ndarray) -> np.ndarray:
    """Each pixel's probabilities over its largest: under a small T, `tempered` would make 0 of all classes."""
    probs_CP = np.maximum(probs_CP, np.float32(FLOOR))
    return probs_CP / probs_CP.max(0)


def draw_opinions(
    blend: FittedBlend, blend_of: Mapping[int, FittedBlend], means: Source, by_fold: Mapping[int, Source]
) -> Opinions:
    """Label the tiles of `by_fold` from the means and from each fold's members.

    Args:
        blend_of: fold -> the blend fitted without it.
        means: holds the tiles, and perhaps others.
        by_fold: fold -> the same tiles in the same order by its members.
    """
    names = next(iter(by_fold.values())).names
    row_of = {name: row for row, name in enumerate(means.names)}

    def look(i: int) -> tuple[np.ndarray, list[np.ndarray]]:
        probs_CHW, mean_HW = apply_tile(blend, means, row_of[names[i]])
        labels = [mean_HW] + [apply_tile(blend_of[fold], source, i)[1] for fold, source in by_fold.items()]
        # An odd stride: columns of a tile, whose sides are even, are then all met.
        stride = max(1, mean_HW.size // PIXELS) | 1
        # Copied: a view would keep the whole tile in memory until all tiles are through.
        probs_CP = probs_CHW.reshape(len(probs_CHW), -1)[:, ::stride].copy()
        return probs_CP, [label.ravel()[::stride].copy() for label in labels]

    looks = track_in_threads(look, range(len(names)), "members' own labels")
    probs, labels = zip(*looks, strict=True)
    mean_P, *fold_LP = (np.concatenate(each) for each in zip(*labels, strict=True))
    return Opinions(np.concatenate(probs, axis=1), mean_P, fold_LP)
