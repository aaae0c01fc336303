"""One look at the out-of-fold predictions of a sample of tiles, from which the OOF and tile sections are drawn.

A sample, because people look at dozens of tiles and not at thousands, and because a report must not take longer than a
blend. What is scored on all tiles stands in `oof.csv`; here are what it lacks: single tiles, confidence, intervals.
"""

from dataclasses import dataclass

import numpy as np

from base.errors import UserError
from base.threads import track_in_threads
from config.data import IGNORE_INDEX
from ensemble.apply import apply_uncleaned, cleaned
from ensemble.evidence import Counter, Tally
from ensemble.fitted import FittedBlend
from ensemble.labels import class_order, of_class, top_class
from ensemble.source import OofSource
from folds.metrics import confusion
from reports.patches import Habits, Patch, find_patches, habits_of, summed

TILES = 800  # drawn at random
HOLDERS = 12  # tiles of each class that are added where the random ones hold fewer: rare classes are to be seen too
BINS = 15


@dataclass(frozen=True)
class TileLook:
    """What the members that never saw a tile say of it."""

    conf_CC: np.ndarray
    """Of the blend."""
    plain_bins: np.ndarray
    """`reliability_bins` of the plain mean."""
    blend_bins: np.ndarray
    """`reliability_bins` of the blend before post-processing, which has no probabilities."""
    patches: list[Patch]
    habits: Habits


@dataclass(frozen=True)
class OofLook:
    tile_n: np.ndarray
    """Positions in the source."""
    drawn_n: np.ndarray
    """bool: drawn at random, and not added for a rare class. Estimates use these alone."""
    tiles: list[TileLook]
    total: int
    """Tiles that there are."""

    @property
    def complete(self) -> bool:
        return len(self.tiles) == self.total

    def scope(self) -> str:
        """ "all 225 tiles", "800 of 16,017 tiles, drawn at random"."""
        drawn = int(self.drawn_n.sum())
        return f"all {self.total:,} tiles" if self.complete else f"{drawn:,} of {self.total:,} tiles, drawn at random"

    def drawn(self) -> list[TileLook]:
        return [tile for tile, drawn in zip(self.tiles, self.drawn_n, strict=True) if drawn]

    def habits(self) -> Habits:
        return summed([tile.habits for tile in self.drawn()])

    @property
    def conf_CC(self) -> np.ndarray:
        """Of the blend, over the tiles drawn."""
        return np.sum([tile.conf_CC for tile in self.drawn()], axis=0)


def draw_tiles(hist_NC: np.ndarray, at_most: int = TILES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n,) sorted positions and (n,) whether each was drawn at random; all tiles where there are not more than that."""
    count = len(hist_NC)
    if count <= at_most:
        return np.arange(count), np.ones(count, bool)
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    drawn_N = np.zeros(count, bool)
    drawn_N[order[:at_most]] = True
    chosen_N = drawn_N.copy()
    for has_N in (hist_NC > 0).T:
        missing = HOLDERS - int((chosen_N & has_N).sum())
        if missing > 0:
            chosen_N[order[has_N[order] & ~chosen_N[order]][:missing]] = True
    tile_n = np.flatnonzero(chosen_N)
    return tile_n, drawn_N[tile_n]


def look_at_oof(source: OofSource, blend_of: dict[int, FittedBlend], at_most: int = TILES) -> OofLook:
    """Look at a sample of the source's tiles.

    Args:
        blend_of: fold -> the blend that was fitted without it.

    Raises:
        UserError: the source has no tiles.
    """
    tile_n, drawn_n = draw_tiles(source.hist_NC, at_most)
    if not len(tile_n):
        raise UserError("no out-of-fold predictions: the folds hold no tile")

    def look(i: int) -> TileLook:
        return look_at_tile(source, i, blend_of[int(source.fold_N[i])])

    tiles = list(track_in_threads(look, tile_n.tolist(), "look at OOF"))
    return OofLook(tile_n, drawn_n, tiles, len(source.hist_NC))


def look_at_tile(source: OofSource, i: int, blend: FittedBlend) -> TileLook:
    models, num_classes = list(source.models), len(source.classes)
    probs_MCHW = source.probs(i, models)
    truth_HW = source.truth(i)
    truth_P = truth_HW.ravel()
    chosen = [models.index(model) for model in blend.models]
    evidence_SHW = source.evidence(i, blend.specialist_names)
    blended_CHW, decided_HW = apply_uncleaned(blend, probs_MCHW[chosen], evidence_SHW)
    index_HW = cleaned(blend, blended_CHW, decided_HW)
    # Bytes are summed in 16 bits, which hold 257 models.
    flat_MCP = probs_MCHW.reshape(len(models), num_classes, -1)
    total_CP = flat_MCP.sum(0, dtype=np.uint16 if flat_MCP.dtype == np.uint8 else np.float32)

    blended_CP = blended_CHW.reshape(num_classes, -1)
    return TileLook(
        conf_CC=confusion(index_HW, truth_HW, num_classes),
        plain_bins=reliability_bins(total_CP, top_class(total_CP, class_order(source.classes)), truth_P),
        blend_bins=reliability_bins(blended_CP, decided_HW.ravel(), truth_P),
        patches=find_patches(blended_CHW, index_HW, truth_HW),
        habits=habits_of(blended_CHW, index_HW, truth_HW),
    )


def reliability_bins(score_CP: np.ndarray, index_P: np.ndarray, truth_P: np.ndarray) -> np.ndarray:
    """(BINS, 3) of pixels that count, by the probability of the label: how many, its sum, how many right.

    Args:
        score_CP: probabilities, or multiples of them.
        index_P: the label, which need not be the likeliest class.
    """
    keep = truth_P != IGNORE_INDEX
    sure_P = of_class(score_CP, index_P)[keep] / np.maximum(score_CP.sum(0)[keep], 1e-9)
    right_P = index_P[keep] == truth_P[keep]
    bin_P = np.minimum((sure_P * BINS).astype(np.int64), BINS - 1)
    columns = [np.bincount(bin_P, weights, minlength=BINS) for weights in (None, sure_P, right_P)]
    return np.stack(columns, axis=1).astype(np.float64)


def tally_by_group(conf_nCC: np.ndarray, group_n: np.ndarray) -> Tally:
    """Confusions of tiles as counts per group, for intervals."""
    groups, number_n = np.unique(group_n, return_inverse=True)
    counter = Counter(len(groups), conf_nCC.shape[-1])
    for number, conf_CC in zip(number_n, conf_nCC, strict=True):
        counter.add(int(number), conf_CC)
    return counter.tally()
