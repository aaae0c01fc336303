"""Do intervals hold what they say? On worlds whose truth is known, of few groups and of many.

Beside ours stand the percentiles of resampled groups (Efron and Tibshirani 1993, chapter 13), which were ours before.
"""

from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.special import expit, logit

from benchmarks.ensemble_scale import CORES
from ensemble.evidence import CONFIDENCE, Estimate, Tally, gain, score, tally_of_counts
from folds.metrics import iou_of_counts, mean_over_classes

GROUPS = (3, 5, 9, 13, 20, 40)
TRIALS = 500
PIXELS = 20_000  # of a group
DRAWS = 1000
TRIED = 3
CLASS_IOU = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5])  # recall, rather; of the commonest class first
SHARES = np.array([30, 10, 4, 1.5, 0.6, 0.3]) / 3  # Dirichlet: groups hold very different shares of the rare ones
APART = 0.5  # std of a group's logit of recall and of false alarms: how hard it is
LUCK = 0.1  # std of the same between two labellings that are equally good


def intervals() -> dict[str, Any]:
    """The least share of intervals of a mIoU that hold the truth; the largest share of trials in which the best of
    three candidates, equally good in truth, is certain to gain."""
    truth = world(np.random.default_rng(0), 200_000)[0].miou
    print(f"intervals: share of {TRIALS} that hold the truth (.95 is meant); of as many best of {TRIED} candidates, "
          f"equally good, those called certain to gain (.025)")  # fmt: skip
    held, chance = [], []
    for groups in GROUPS:
        found = Parallel(n_jobs=CORES)(delayed(_trial)(seed, groups, truth) for seed in range(TRIALS))
        holds, holds_percentile, certain, certain_percentile = np.mean(found, axis=0)
        print(f"  {groups:2} groups: {holds:.3f}, percentiles {holds_percentile:.3f}; {certain:.3f}, percentiles "
              f"{certain_percentile:.3f}", flush=True)  # fmt: skip
        held.append(holds)
        chance.append(certain)
    return {"interval_holds": float(min(held)), "chance_certain": float(max(chance))}


def world(rng: np.random.Generator, groups: int, labellings: int = 1) -> list[Tally]:
    """Counts of equally good labellings of one truth."""
    truth_GC = np.stack([rng.multinomial(PIXELS, share_C) for share_C in rng.dirichlet(SHARES, groups)])
    shape = truth_GC.shape
    hard_GC, wild_GC = (rng.normal(0, APART, shape) for _ in range(2))
    tallies = []
    for _ in range(labellings):
        recall_GC = expit(logit(CLASS_IOU) + hard_GC + rng.normal(0, LUCK, shape))
        alarms_GC = expit(logit(0.15) + wild_GC + rng.normal(0, LUCK, shape))
        hit_GC = np.round(truth_GC * recall_GC)
        tallies.append(tally_of_counts(hit_GC, hit_GC + np.round(truth_GC * alarms_GC), truth_GC))
    return tallies


def percentile(after: Tally, before: Tally | None, confidence: float) -> Estimate:
    """The interval of a mIoU, or of a gain, from the quantiles of resampled groups."""
    groups = len(after.hit_GC)
    rng = np.random.default_rng(groups)
    times_DG = np.stack([np.bincount(rng.integers(0, groups, groups), minlength=groups) for _ in range(DRAWS)])
    value_D = _resampled(after, times_DG) - (0 if before is None else _resampled(before, times_DG))
    value = after.miou - (0 if before is None else before.miou)
    low, high = np.quantile(value_D, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


def _resampled(of: Tally, times_DG: np.ndarray) -> np.ndarray:
    return mean_over_classes(iou_of_counts(times_DG @ of.hit_GC, times_DG @ of.union_GC))


def _trial(seed: int, groups: int, truth: float) -> list[bool]:
    before, *tried = world(np.random.default_rng([seed, groups]), groups, 1 + TRIED)
    ours, theirs = score(before), percentile(before, None, CONFIDENCE)
    widened = 1 - (1 - CONFIDENCE) / TRIED
    gains = [max(each, key=lambda estimate: estimate.value) for each in (
        [gain(after, before, tried=TRIED) for after in tried], [percentile(after, before, widened) for after in tried]
    )]  # fmt: skip
    return [each.low <= truth <= each.high for each in (ours, theirs)] + [best.above_zero for best in gains]
