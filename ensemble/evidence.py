"""What speaks for a blend: its counts per group, and intervals from leaving groups out. A gain is a paired difference.

Groups, not pixels or tiles, are what a data set has many independent ones of: pixels of one scene err together.

Intervals are the jackknife's: the standard error that the figures without each group tell, times Student's t of G - 1
degrees of freedom. Of 3 to 13 groups such an interval of a mIoU holds the truth in 93 to 96 of 100 trials; percentiles
of resampled groups, which stood here before, in 77 to 92, and they chose steps that gained by chance (docs/results.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from folds.metrics import confusion, iou_of_counts, mean_over_classes

CONFIDENCE = 0.95
SHIPS = 0.8
"""Confidence with which a step must gain. Lower than that of the tables: what ships by chance costs next to nothing,
what is left out all that it would have gained (docs/results.md). Whatever is chosen, the honest score judges it."""
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
    loss_G = np.zeros(num_groups) if loss_P is None else np.bincount(group_P, weight_P * loss_P, minlength=num_groups)
    conf_CC = confusion(index_P, truth_P, num_classes, weight_P)
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

    def within(self, least: float, most: float) -> "Estimate":
        """The interval without values that the figure cannot have."""
        return replace(self, low=np.maximum(self.low, least), high=np.minimum(self.high, most))

    def columns(self, name: str) -> dict[str, float]:
        """As the tables have it, in this order."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


UNKNOWN = Estimate(np.nan, np.nan, np.nan)


def score(of: Tally) -> Estimate:
    """A blend's mIoU with its interval.

    A class that a single group holds counts with its IoU where that group is left out: without it, the mean would move
    by how hard it is. How far its IoU lies from that of other groups nobody knows; it is taken to vary as the other
    classes' do (`_borrowed`, our own idea). With one such class of six and 3, 4, 6 and 10 groups, .94, .88, .85 and .80
    of simulated intervals hold the truth so, and .89, .85, .79 and .73 did without it; with two .92, .85, .81 and .75,
    and .80, .68, .63 and .49. If no class is in two groups, there is nothing to borrow, and the interval is too narrow.
    """
    iou_GC = _iou_without(of)
    miou_G = np.asarray(mean_over_classes(np.where(np.isnan(iou_GC), of.iou_C, iou_GC)))
    return _interval(of.miou, miou_G, CONFIDENCE, borrowed=_borrowed(of, iou_GC)).within(0, 1)


def class_intervals(of: Tally) -> np.ndarray:
    """(C, 2) interval of each class's IoU; NaN for a class that fewer than two groups hold."""
    iou_GC = _iou_without(of)
    intervals = [_interval(iou, iou_G, CONFIDENCE).within(0, 1) for iou, iou_G in zip(of.iou_C, iou_GC.T, strict=True)]
    return np.array([(each.low, each.high) for each in intervals])


def gain(
    after: Tally, before: Tally, measure: Measure = "miou", tried: int = 1, confidence: float = CONFIDENCE
) -> Estimate:
    """How much better `after` is than `before` on the same groups. The same group is left out of both: differences are
    paired.

    A class that a single group holds has no difference where that group is left out: what one group alone says of a
    class is not certain, whatever it says.

    Args:
        tried: candidates from which `after` was picked as the best. The interval is widened for it (Bonferroni).
    """
    if measure == "nll":
        value = after.measured(measure) - before.measured(measure)
        value_G = _nll_without(after) - _nll_without(before)
    else:
        # Over classes that the truth holds, both times: the folds at hand may lack one, which a mIoU leaves out, or
        # counts as 0 where a single stray pixel is given to it.
        there_C = after.truth_GC.sum(0) > 0
        value = float((after.iou_C - before.iou_C)[there_C].mean()) if there_C.any() else 0.0
        difference_GC = np.nan_to_num(_iou_without(after) - _iou_without(before))
        value_G = difference_GC[:, there_C].sum(1) / max(1, there_C.sum())
    return _interval(value, value_G, 1 - (1 - confidence) / tried)


def agreement(of: Tally) -> Estimate:
    """Cohen's kappa (1960) of labels and truth, with its interval: 1 are equal labels, 0 is what chance brings, however
    often each class is said; so a constant label has 0 too.

    Of the normal distribution, not Student's t: a good model must not look like chance for want of groups.
    """
    counts_3GC = np.stack([of.hit_GC, of.union_GC - of.truth_GC + of.hit_GC, of.truth_GC])
    value = float(_kappa(counts_3GC.sum(1, keepdims=True))[0])
    value_G = _kappa(np.stack([_without(of, count_GC) for count_GC in counts_3GC]))
    return _interval(value, value_G, CONFIDENCE, freedom=np.inf)


def _kappa(counts_3NC: np.ndarray) -> np.ndarray:
    """(N,) from hits, labels given and truth."""
    hit_NC, said_NC, truth_NC = counts_3NC
    pixels_N = np.maximum(truth_NC.sum(1), 1e-12)
    agree_N = hit_NC.sum(1) / pixels_N
    chance_N = (said_NC * truth_NC).sum(1) / pixels_N**2
    return (agree_N - chance_N) / np.maximum(1 - chance_N, 1e-12)


def _interval(
    value: float, value_G: np.ndarray, confidence: float, freedom: float | None = None, borrowed: float = 0.0
) -> Estimate:
    """From the figure without each group: the jackknife's standard error (Efron and Tibshirani 1993, chapter 11) times
    Student's t. A single group tells no interval, nor does a figure that is not there without one of them: NaN.

    Args:
        freedom: degrees of freedom; None: G - 1.
        borrowed: variance that groups left out cannot tell.
    """
    groups = len(value_G)
    if groups < 2:
        return Estimate(value, np.nan, np.nan)
    error = np.sqrt(_variance(value_G) + borrowed)
    reach = float(stdtrit(freedom or groups - 1, (1 + confidence) / 2) * error)
    return Estimate(value, value - reach, value + reach)


def _variance(value_GX: np.ndarray) -> np.ndarray:
    """(...) the jackknife's, of figures without each group."""
    groups = len(value_GX)
    return (groups - 1) / groups * np.square(value_GX - value_GX.mean(0)).sum(0)


def _borrowed(of: Tally, iou_GC: np.ndarray) -> float:
    """Variance of the mIoU by classes of a single group: for each, what the IoU of the others varies by per group.

    Args:
        iou_GC: without each group.
    """
    groups_C = (of.truth_GC > 0).sum(0)
    several_C = groups_C > 1
    if not several_C.any():
        return 0.0
    of_a_group = (_variance(iou_GC[:, several_C]) * groups_C[several_C]).mean()
    return float((groups_C == 1).sum() * of_a_group / (~np.isnan(of.iou_C)).sum() ** 2)


def _iou_without(of: Tally) -> np.ndarray:
    """(G, C) IoU without each group; NaN for a class that the rest of the truth lacks."""
    hit_GC, union_GC, truth_GC = (_without(of, counts) for counts in (of.hit_GC, of.union_GC, of.truth_GC))
    return np.where(truth_GC > 0, iou_of_counts(hit_GC, union_GC), np.nan)


def _nll_without(of: Tally) -> np.ndarray:
    """(G,) minus the mean log loss without each group."""
    return -_without(of, of.loss_G) / np.maximum(_without(of, of.truth_GC).sum(1), 1e-12)


def _without(of: Tally, count_G: np.ndarray) -> np.ndarray:
    """Sums of (G, ...) counts over all groups but each; groups without a pixel are none."""
    return count_G.sum(0) - count_G[of.truth_GC.any(1)]
