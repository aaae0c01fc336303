"""What speaks for a blend: its counts per group, and intervals from resampling groups. A gain is a paired difference.

Groups, not pixels or tiles, are what a data set has many independent ones of: pixels of one scene err together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from folds.metrics import iou_of_counts, mean_over_classes

DRAWS = 1000
CONFIDENCE = 0.95
Measure = Literal["miou", "nll"]


@dataclass(frozen=True)
class Tally:
    """A blend's counts on G groups: enough for mIoU and for the mean log loss of any mix of groups."""

    hit_GC: np.ndarray
    union_GC: np.ndarray
    truth_GC: np.ndarray
    loss_G: np.ndarray
    """Sum of -log p(truth) over the group's pixels; zeros where it was not asked for."""
    conf_CC: np.ndarray | None = None
    """Of all groups together; None where only totals were counted."""

    @property
    def iou_C(self) -> np.ndarray:
        """IoU per class of all groups together."""
        return iou_of_counts(self.hit_GC.sum(0), self.union_GC.sum(0))

    @property
    def miou(self) -> float:
        return mean_over_classes(self.iou_C)

    @property
    def nll(self) -> float:
        """Mean of -log p(truth) per pixel."""
        return float(self.loss_G.sum() / self.truth_GC.sum())

    def of_groups(self, kept_G: np.ndarray) -> "Tally":
        """The counts of some groups alone, (G,) bool; without a confusion, which is not kept by group."""
        return Tally(self.hit_GC[kept_G], self.union_GC[kept_G], self.truth_GC[kept_G], self.loss_G[kept_G])

    def measured(self, measure: Measure) -> float:
        """Higher is better."""
        return self.miou if measure == "miou" else -self.nll


def tally(
    index_P: np.ndarray,
    truth_P: np.ndarray,
    group_P: np.ndarray,
    num_groups: int,
    num_classes: int,
    weight_P: np.ndarray | None = None,
    loss_P: np.ndarray | None = None,
) -> Tally:
    """Counts of labels against the truth, by group. No truth here is ignored: leave those pixels out.

    Args:
        weight_P: pixels that each one stands for; None: itself.
        loss_P: -log of each pixel's probability of its truth; None: it is not asked for.
    """
    weight_P = np.ones(len(truth_P)) if weight_P is None else weight_P

    def by_group(class_P: np.ndarray, weight: np.ndarray, groups: np.ndarray) -> np.ndarray:
        cell = groups.astype(np.int64) * num_classes + class_P
        return np.bincount(cell, weight, minlength=num_groups * num_classes).reshape(num_groups, num_classes)

    hits = np.flatnonzero(index_P == truth_P)
    truth_GC = by_group(truth_P, weight_P, group_P)
    hit_GC = by_group(truth_P[hits], weight_P[hits], group_P[hits])
    said_GC = by_group(index_P, weight_P, group_P)
    pair = truth_P.astype(np.int64) * num_classes + index_P
    loss_G = np.zeros(num_groups) if loss_P is None else np.bincount(group_P, weight_P * loss_P, minlength=num_groups)
    conf_CC = np.bincount(pair, weight_P, minlength=num_classes**2).reshape(num_classes, num_classes)
    return Tally(hit_GC, truth_GC + said_GC - hit_GC, truth_GC, loss_G, conf_CC)


def tally_of_counts(hit_GC: np.ndarray, said_GC: np.ndarray, truth_GC: np.ndarray) -> Tally:
    """From hits, labels given and truth per group and class."""
    return Tally(hit_GC, truth_GC + said_GC - hit_GC, truth_GC, np.zeros(len(hit_GC)))


class Counter:
    """Adds up confusions of whole tiles by group."""

    def __init__(self, num_groups: int, num_classes: int):
        self._conf_CC = np.zeros((num_classes, num_classes), np.int64)
        self._hit_GC, self._said_GC, self._truth_GC = (np.zeros((num_groups, num_classes), np.int64) for _ in range(3))

    def add(self, group: int, conf_CC: np.ndarray) -> None:
        self._conf_CC += conf_CC
        self._hit_GC[group] += np.diagonal(conf_CC)
        self._said_GC[group] += conf_CC.sum(0)
        self._truth_GC[group] += conf_CC.sum(1)

    def tally(self) -> Tally:
        """Without log loss, which is a means of fitting: only labels are handed in."""
        return replace(tally_of_counts(self._hit_GC, self._said_GC, self._truth_GC), conf_CC=self._conf_CC)


def joined(tallies: Iterable[Tally]) -> Tally:
    """The tallies of disjoint sets of groups (folds) as one."""
    tallies = list(tallies)
    return Tally(
        conf_CC=sum(t.conf_CC for t in tallies),
        **{
            name: np.concatenate([getattr(t, name) for t in tallies])
            for name in ("hit_GC", "union_GC", "truth_GC", "loss_G")
        },
    )


@dataclass(frozen=True)
class Estimate:
    """A figure on all groups, and its interval."""

    value: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def score(of: Tally, measure: Measure = "miou", draws: int = DRAWS) -> Estimate:
    """A blend's mIoU (or minus its log loss) with its interval.

    A class that a draw's truth lacks counts with its IoU on all groups: left out, it would move the mean of that draw
    by how hard it is.
    """
    value = of.measured(measure)
    if measure == "nll":
        return _estimate(value, _resampled_nll(of, draws), CONFIDENCE)
    iou_DC = _resampled_iou(of, draws)
    iou_DC = np.where(np.isnan(iou_DC), of.iou_C, iou_DC)
    return _estimate(value, np.asarray(mean_over_classes(iou_DC)), CONFIDENCE)


def class_intervals(of: Tally, draws: int = DRAWS) -> np.ndarray:
    """(C, 2) interval of each class's IoU, from draws whose truth holds it; NaN for a class that the truth lacks."""
    iou_DC = _resampled_iou(of, draws)
    there_C = ~np.isnan(iou_DC).all(0)
    interval_C2 = np.full((iou_DC.shape[1], 2), np.nan)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    interval_C2[there_C] = np.nanquantile(iou_DC[:, there_C], tails, axis=0).T
    return interval_C2


def gain(after: Tally, before: Tally, measure: Measure = "miou", tried: int = 1, draws: int = DRAWS) -> Estimate:
    """How much better `after` is than `before` on the same groups. The same draws for both: differences are paired.

    A class that a draw's truth lacks has no difference in that draw: what one group alone says of a class is not
    certain, whatever it says.

    Args:
        tried: candidates from which `after` was picked as the best. The interval is widened for it (Bonferroni).
    """
    if measure == "nll":
        value = after.measured(measure) - before.measured(measure)
        difference_D = _resampled_nll(after, draws) - _resampled_nll(before, draws)
    else:
        # Over classes that the truth holds, both times: the folds at hand may lack one, which a mIoU leaves out, or
        # counts as 0 where a single stray pixel is given to it.
        there_C = after.truth_GC.sum(0) > 0
        value = float((after.iou_C - before.iou_C)[there_C].mean()) if there_C.any() else 0.0
        difference_DC = np.nan_to_num(_resampled_iou(after, draws) - _resampled_iou(before, draws))
        difference_D = difference_DC[:, there_C].sum(1) / max(1, there_C.sum())
    return _estimate(value, difference_D, 1 - (1 - CONFIDENCE) / tried)


def agreement(of: Tally, draws: int = DRAWS) -> Estimate:
    """Cohen's kappa (1960) of labels and truth, with its interval: 1 are equal labels, 0 is what chance brings, however
    often each class is said; so a constant label has 0 too."""
    counts_3GC = np.stack([of.hit_GC, of.union_GC - of.truth_GC + of.hit_GC, of.truth_GC])
    times_DG = _group_draws(len(of.hit_GC), draws)
    value = float(_kappa(counts_3GC.sum(1, keepdims=True))[0])
    return _estimate(value, _kappa(np.stack([_times(times_DG, count_GC) for count_GC in counts_3GC])), CONFIDENCE)


def _kappa(counts_3DC: np.ndarray) -> np.ndarray:
    """(D,) from hits, labels given and truth."""
    hit_DC, said_DC, truth_DC = counts_3DC
    pixels_D = truth_DC.sum(1)
    agree_D = hit_DC.sum(1) / pixels_D
    chance_D = (said_DC * truth_DC).sum(1) / pixels_D**2
    return (agree_D - chance_D) / np.maximum(1 - chance_D, 1e-12)


def _estimate(value: float, value_D: np.ndarray, confidence: float) -> Estimate:
    # The percentile interval (Efron and Tibshirani 1993, chapter 13).
    low, high = np.quantile(value_D, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


def _resampled_iou(of: Tally, draws: int) -> np.ndarray:
    """(D, C) IoU on resampled groups; NaN for a class that a draw's truth lacks."""
    times_DG = _group_draws(len(of.hit_GC), draws)
    hit_DC, union_DC, truth_DC = (_times(times_DG, counts) for counts in (of.hit_GC, of.union_GC, of.truth_GC))
    return np.where(truth_DC > 0, iou_of_counts(hit_DC, union_DC), np.nan)


def _resampled_nll(of: Tally, draws: int) -> np.ndarray:
    """(D,) minus the mean log loss on resampled groups."""
    times_DG = _group_draws(len(of.hit_GC), draws)
    return -_times(times_DG, of.loss_G[:, None])[:, 0] / _times(times_DG, of.truth_GC).sum(1)


def _times(times_DG: np.ndarray, count_GC: np.ndarray) -> np.ndarray:
    """times_DG @ count_GC in float64, a slice of draws at a time: the product of a byte matrix has no BLAS."""
    return np.concatenate([part.astype(np.float64) @ count_GC for part in np.array_split(times_DG, 20)])


@lru_cache(maxsize=8)
def _group_draws(num_groups: int, draws: int) -> np.ndarray:
    """(D, G) how often each group is in each draw; the same for every tally of as many groups."""
    rng = np.random.default_rng(num_groups)
    times_DG = np.empty((draws, num_groups), np.uint8)
    for row_G in times_DG:
        row_G[:] = np.bincount(rng.integers(0, num_groups, num_groups), minlength=num_groups)
    times_DG.flags.writeable = False
    return times_DG
