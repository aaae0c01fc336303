"""In which order an epoch sees the training tiles, and how often each: a function of (seed, epoch) alone."""

from collections.abc import Sequence

import numpy as np

from config.losses import ClassTimes, RepeatFactor, Sampler
from pipeline.seeds import ORDER, seed_of


def epoch_order(sampler: Sampler, hist_NC: np.ndarray, names: Sequence[str], seed: int, epoch: int) -> np.ndarray:
    """Positions of the training tiles in the order of one epoch; a tile may come several times, none comes never.

    Args:
        hist_NC: (N, C) pixels per training tile and class; a tile holds a class from one pixel on.
        names: the classes, in the order of the columns.
    """
    rng = np.random.default_rng(seed_of(ORDER, seed, epoch))
    repeats_N = _repeats(sampler, hist_NC, names)
    whole_N = np.floor(repeats_N)
    # A tile that is due 1.3 times comes twice in 30 % of the epochs.
    times_N = (whole_N + (rng.random(len(repeats_N)) < repeats_N - whole_N)).astype(np.int64)
    return rng.permutation(np.repeat(np.arange(len(repeats_N)), times_N))


def _repeats(sampler: Sampler, hist_NC: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(N,) how often each tile comes on average, at least 1."""
    holds_NC = hist_NC > 0
    repeats_C = np.ones(len(names))
    match sampler:
        case RepeatFactor():
            # LVIS (Gupta, Dollar, Girshick 2019): r_c = max(1, sqrt(t / f_c)), f_c the share of tiles that hold c.
            share_C = np.maximum(holds_NC.mean(0), 1e-12)  # a class that no tile holds multiplies nothing
            repeats_C = np.maximum(1.0, np.sqrt(sampler.threshold / share_C))
        case ClassTimes():
            repeats_C = np.array([sampler.times.get(name, 1) for name in names], np.float64)
    return np.where(holds_NC, repeats_C, 1.0).max(1)
