"""Do intervals hold what they say? On worlds whose truth is known, of few groups and of many.

Beside ours stand the percentiles of resampled groups (Efron and Tibshirani 1993, chapter 13), which were ours before.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.special import expit, logit

from benchmarks.ensemble_scale import CORES
from ensemble.evidence import CONFIDENCE, SHIPS, Estimate, Tally, gain, score, tally_of_counts
from folds.metrics import iou_of_counts, mean_over_classes

GROUPS = (3, 5, 9, 13, 20, 40)
OF_OTHERS = (3, 5, 9, 13)  # groups of the other worlds
TRIALS = 500
PIXELS = 20_000  # of a group
SIZES = 1.0  # std of the log of a group's pixels where they differ
DRAWS = 1000
TRIED = 3
CLASS_IOU = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5])  # recall, rather; of the commonest class first
SHARES = np.array([30, 10, 4, 1.5, 0.6, 0.3]) / 3  # Dirichlet: groups hold very different shares of the rare ones
APART = 0.5  # std of a group's logit of recall and of false alarms: how hard it is
LUCK = 0.1  # std of the same between two labellings that are equally good


def intervals() -> dict[str, Any]:
    """The least share of intervals of a mIoU that hold the truth, also where a class is in one group and where groups
    differ in size; of trials with three candidates, equally good in truth, the largest share in which the best one is
    certain to gain, and in which one would ship."""
    truth = world(np.random.default_rng(0), 200_000)[0].miou
    print(f"intervals: share of {TRIALS} that hold the truth (.95 is meant); of as many best of {TRIED} candidates, "
          f"equally good, those called certain to gain (.025); trials in which one would ship (.10)")  # fmt: skip
    held, shipped, chance = {"": [], "_alone": [], "_sizes": []}, [], []
    for groups in GROUPS:
        holds, ships, certain, holds_percentile, certain_percentile = _shares(_trial, groups, truth)
        print(f"  {groups:2} groups: {holds:.3f}, percentiles {holds_percentile:.3f}; {certain:.3f}, percentiles "
              f"{certain_percentile:.3f}; {ships:.3f}", flush=True)  # fmt: skip
        held[""].append(holds)
        shipped.append(ships)
        chance.append(certain)
    for name, kind in (("_alone", {"alone": True}), ("_sizes", {"sizes": SIZES})):
        for groups in OF_OTHERS:
            holds, ships = _shares(_trial_of_ours, groups, truth, **kind)
            print(f"  {groups:2} groups, {kind}: {holds:.3f}; {ships:.3f}", flush=True)
            held[name].append(holds)
            shipped.append(ships)
    figures = {f"interval_holds{name}": min(shares) for name, shares in held.items()}
    return figures | {"chance_certain": max(chance), "chance_ships": max(shipped)}


def world(
    rng: np.random.Generator, groups: int, labellings: int = 1, alone: bool = False, sizes: float = 0.0
) -> list[Tally]:
    """Counts of equally good labellings of one truth.

    Args:
        alone: the rarest class is in one group only.
        sizes: std of the log of a group's pixels.
    """
    share_GC = rng.dirichlet(SHARES, groups)
    if alone:
        share_GC[np.arange(groups) != rng.integers(groups), -1] = 0
        share_GC /= share_GC.sum(1, keepdims=True)
    pixels_G = np.rint(PIXELS * rng.lognormal(0, sizes, groups)).astype(int) if sizes else np.full(groups, PIXELS)
    truth_GC = np.stack([rng.multinomial(*of_group) for of_group in zip(pixels_G, share_GC, strict=True)])
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


def _shares(trial: Callable[..., list[bool]], groups: int, truth: float, **kind: Any) -> list[float]:
    found = Parallel(n_jobs=CORES)(delayed(trial)(seed, groups, truth, **kind) for seed in range(TRIALS))
    return np.mean(found, axis=0).tolist()


def _trial_of_ours(seed: int, groups: int, truth: float, **kind: Any) -> list[bool]:
    """Does the interval of a mIoU hold the truth, and would one of the candidates ship?"""
    before, *tried = world(np.random.default_rng([seed, groups]), groups, 1 + TRIED, **kind)
    ships = any(gain(after, before, tried=TRIED, confidence=SHIPS).above_zero for after in tried)
    return [score(before).low <= truth <= score(before).high, ships]


def _trial(seed: int, groups: int, truth: float) -> list[bool]:
    """The same; is the best candidate certain to gain; and what percentiles say of the first and the last."""
    before, *tried = world(np.random.default_rng([seed, groups]), groups, 1 + TRIED)
    theirs, widened = percentile(before, None, CONFIDENCE), 1 - (1 - CONFIDENCE) / TRIED
    best, best_theirs = (max(each, key=lambda estimate: estimate.value) for each in (
        [gain(after, before, tried=TRIED) for after in tried], [percentile(after, before, widened) for after in tried]
    ))  # fmt: skip
    return [*_trial_of_ours(seed, groups, truth), best.above_zero, theirs.low <= truth <= theirs.high,
            best_theirs.above_zero]  # fmt: skip
