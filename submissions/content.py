"""Is what a submission holds believable? Statistics over all its tiles against the train tiles and the OOF labels."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from folds.classes import ClassTable
from folds.tiles import hist_of
from submissions.problems import ERROR, WARNING, Problem

# Total variation between two lists of shares: the part of the area that would have to change its class.
FAR = 0.15
CERTAIN = 2.0  # times as far as shares may lie: from there on, that another reading of the labels fits is an error
DRAWS = 500  # test sets drawn from the train tiles, to see how far an innocent one lies from the whole
CONSTANT_EXCESS = 0.25  # share of one-class tiles above the train tiles'
ABSENT_SHARE = 0.005  # a class that should have this share of the area, or has it in the train masks, and has no pixel


def shares(hist_C: np.ndarray) -> np.ndarray:
    return hist_C / max(hist_C.sum(), 1)


def distance(shares_C: np.ndarray, other_C: np.ndarray) -> float:
    """Total variation, 0..1."""
    return float(np.abs(shares_C - other_C).sum() / 2)


def innocent_distance(tiles: pd.DataFrame, classes: ClassTable, num_tiles: int) -> float:
    """How far the shares of `num_tiles` tiles may lie from those expected without a word.

    The farthest of DRAWS test sets made of whole train groups, each counted as often as it is drawn; FAR at least.
    Groups, because test tiles come from scenes too, and a handful of scenes differs more than as many loose tiles.
    """
    hist_NC = hist_of(tiles, classes)
    groups, of_tile = np.unique(tiles.group[tiles.split == "train"].to_numpy(str), return_inverse=True)
    hist_GC = np.zeros((len(groups), hist_NC.shape[1]))
    np.add.at(hist_GC, of_tile, hist_NC)
    drawn = max(1, round(num_tiles * len(groups) / len(hist_NC)))
    count_DG = np.random.default_rng(0).multinomial(drawn, np.full(len(groups), 1 / len(groups)), size=DRAWS)
    whole_C = shares(hist_NC.sum(0))
    return max(FAR, *(distance(shares(hist_C), whole_C) for hist_C in count_DG @ hist_GC))


def judge(
    hist_NC: np.ndarray, expected_C: np.ndarray, limit: float, train_hist_NC: np.ndarray, classes: ClassTable
) -> list[Problem]:
    """What is suspicious about class counts per test tile.

    Args:
        hist_NC: (N, C) pixels per test tile and class, by index.
        expected_C: class shares of the OOF labels, or of the train masks.
        limit: distance up to which shares count as near.
        train_hist_NC: the same counts of the train tiles.
    """
    found_C, train_C = shares(hist_NC.sum(0)), shares(train_hist_NC.sum(0))
    return [
        *_constant(hist_NC, expected_C, train_hist_NC, classes),
        *_far(found_C, expected_C, limit, classes),
        *_absent(found_C, expected_C, train_C, classes),
    ]


def _constant(
    hist_NC: np.ndarray, expected_C: np.ndarray, train_hist_NC: np.ndarray, classes: ClassTable
) -> list[Problem]:
    one_class = (hist_NC > 0).sum(1) == 1
    share = one_class.mean()
    usual = ((train_hist_NC > 0).sum(1) == 1).mean()
    used = [classes.names[c] for c in np.flatnonzero(hist_NC.sum(0))]
    if share == 1 and usual < 1 and len(hist_NC) > 1:
        # One class everywhere, out of fold too: a network that has learned nothing, not a zip that went wrong.
        severity = WARNING if expected_C.max() > 0.95 else ERROR
        return [Problem("constant", f"every tile is one class only ({', '.join(used)})", severity=severity)]
    if share > usual + CONSTANT_EXCESS:
        text = f"{share:.0%} of the tiles are one class only; of the train masks {usual:.0%}"
        return [Problem("constant", text, severity=WARNING)]
    return []


def _far(found_C: np.ndarray, expected_C: np.ndarray, limit: float, classes: ClassTable) -> list[Problem]:
    problems = []
    far = distance(found_C, expected_C)
    if far > limit:
        what, at = _best_relabelling(found_C, expected_C, classes)
        fits = at < min(limit, far / 2)
        better = f"class shares fit {far / at:.0f} times better if {what}"
        if fits and far > CERTAIN * limit:
            return [Problem("shifted", f"{better}: the labels went through the door twice")]
        worst = sorted(range(len(classes)), key=lambda c: -abs(found_C[c] - expected_C[c]))[:3]
        told = ", ".join(f"{classes.names[c]} {found_C[c]:.1%} for {expected_C[c]:.1%}" for c in worst)
        # Of a few classes of similar area, other scenes fit in another order by chance.
        perhaps = f"; {better}, which may be chance" if fits else ""
        text = f"{far:.1%} of the area has another class than expected ({limit:.1%} would pass): {told}{perhaps}"
        problems.append(Problem("shares", text, severity=WARNING))
    return problems


def _absent(found_C: np.ndarray, expected_C: np.ndarray, train_C: np.ndarray, classes: ClassTable) -> Iterator[Problem]:
    """Classes that the zip has nowhere: those that were expected, and those that the train masks have and that the
    members did not learn, which the out-of-fold labels do not have either."""
    expected = (found_C == 0) & (expected_C > ABSENT_SHARE)
    unlearned = (found_C == 0) & (train_C > ABSENT_SHARE) & ~expected
    for absent, share_C, known in (
        (expected, expected_C, "expected on {:.1%} of the area"),
        (unlearned, train_C, "on {:.1%} of the train masks; out of fold hardly a pixel is labelled so either"),
    ):
        if absent.any():
            names = ", ".join(classes.names[c] for c in np.flatnonzero(absent))
            text = f"no pixel of {names}, {known.format(share_C[absent].sum())}"
            yield Problem("shares", text, severity=WARNING)


def _best_relabelling(found_C: np.ndarray, expected_C: np.ndarray, classes: ClassTable) -> tuple[str, float]:
    """The usual mistake that would explain the shares best, and how far they would then be from the expected ones."""
    labels = np.array(classes.labels)
    by_label = np.zeros(256)
    by_label[labels] = found_C
    candidates = {
        "every label is read as the class before it": np.roll(found_C, -1),
        "every label is read as the class after it": np.roll(found_C, 1),
        "values are read as indices 0..C-1": by_label[: len(labels)],
    }
    what = min(candidates, key=lambda key: distance(candidates[key], expected_C))
    return what, max(distance(candidates[what], expected_C), 1e-6)
