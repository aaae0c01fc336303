"""Fit the sizes of `ensemble/patches.py` on OOF tiles, and ask whether they help tiles that they were not fitted on.

Under any sizes, each patch of a label map stays, becomes the class that it is a hole in, or gives way to its pixels'
next best classes; so hits and labels given under any sizes are sums over patches, counted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from base.threads import track_in_threads
from config.data import IGNORE_INDEX
from config.ensemble import Blend
from ensemble.apply import apply_tile
from ensemble.evidence import SHIPS, Tally, gain, tally_of_counts
from ensemble.fit import Choice, Fit
from ensemble.fitted import FittedBlend
from ensemble.formulas import scores
from ensemble.honest import HonestFit
from ensemble.labels import class_order, miou_of_counts
from ensemble.patches import next_best, patches
from ensemble.source import OofSource

SIZES = np.array([0, 4, 8, 16, 32, 64, 128])  # pixels
TILES = 200  # spread evenly over the OOF tiles; two numbers per class need no more
SWEEPS = 2


@dataclass(frozen=True)
class PatchTable:
    """Patches smaller than the largest of SIZES of one or several label maps: what each would bring, changed."""

    tile_R: np.ndarray
    class_R: np.ndarray
    hole_in_R: np.ndarray
    """-1: in none."""
    rank_R: np.ndarray
    """The smallest i with size < SIZES[i]."""
    pixels_R: np.ndarray
    """Here and below: pixels whose truth is not ignored."""
    hits_R: np.ndarray
    hole_hits_R: np.ndarray
    next_RC: np.ndarray
    """Labels given when each pixel takes its next best class."""
    next_hits_RC: np.ndarray


def fit_postprocess(fits: HonestFit, source: OofSource, settings: Blend) -> HonestFit:
    """The fits with a last stage "postprocess". Each one's sizes come from tiles of its own folds alone.

    The evidence of a fit: sizes fitted without one more fold, on labels of the same blend, are scored on that fold. As
    in `fit_honestly`, nothing is asked with two folds.
    """
    if settings.postprocess == "none":
        return fits
    tiles = np.unique(np.linspace(0, len(source.fold_N) - 1, TILES).round().astype(int))
    tiles = np.argsort(source.fold_N, kind="stable")[tiles]  # evenly from every fold
    ask = len(fits.without) > 2
    whole = _with_sizes(fits.whole, source, tiles, settings, ask)
    without = {
        fold: _with_sizes(fit, source, tiles[np.asarray(source.fold_N)[tiles] != fold], settings, ask)
        for fold, fit in fits.without.items()
    }
    return HonestFit(whole, without)


def _with_sizes(fit: Fit, source: OofSource, tiles: np.ndarray, settings: Blend, ask: bool) -> Fit:
    blend = fit.blend
    base, table = _count(blend, source, tiles)
    fold_T = np.asarray(source.fold_N)[tiles]
    order = class_order(blend.classes)
    choices = []
    ships = settings.postprocess == "clean"
    if not ships and ask and len(np.unique(fold_T)) > 1:
        after = base.copy()
        for fold in np.unique(fold_T):
            held_out = np.flatnonzero(fold_T == fold)
            sizes = _fit_sizes(base, table, np.flatnonzero(fold_T != fold), order)
            after[held_out] = _changed(base, table, *sizes)[held_out]
        groups = np.unique(np.asarray(source.group_N)[tiles], return_inverse=True)[1]
        estimate = gain(_by_group(after, groups), _by_group(base, groups), confidence=SHIPS)
        ships = estimate.above_zero
        choices = [Choice("postprocess", "clean", "miou", estimate, ships)]
    if ships:
        min_px_C, hole_px_C = _fit_sizes(base, table, np.arange(len(tiles)), order)
        cleaned = replace(blend, min_px_C=tuple(SIZES[min_px_C].tolist()), hole_px_C=tuple(SIZES[hole_px_C].tolist()))
    else:
        cleaned = blend
    cleaned = replace(cleaned, kinds=blend.kinds | {"postprocess": "clean" if ships else "none"})
    return Fit(fit.stages | {"postprocess": cleaned}, fit.choices + choices)


def _count(blend: FittedBlend, source: OofSource, tiles: Sequence[int]) -> tuple[np.ndarray, PatchTable]:
    """(T, 3, C) hits, labels given and truth of each tile as it is, and the patches of all."""

    def count(position_and_tile: tuple[int, int]) -> tuple[np.ndarray, PatchTable]:
        position, i = position_and_tile
        probs_CHW, index_HW = apply_tile(blend, source, i)
        return _count_tile(position, index_HW, scores(blend, probs_CHW), source.truth(i), class_order(blend.classes))

    rows = list(track_in_threads(count, enumerate(tiles), "post-processing", total=len(tiles)))
    columns = {
        name: np.concatenate([getattr(table, name) for _, table in rows]) for name in PatchTable.__dataclass_fields__
    }
    return np.stack([base for base, _ in rows]), PatchTable(**columns)


def _count_tile(
    position: int, index_HW: np.ndarray, score_CHW: np.ndarray, truth_HW: np.ndarray, order: list[int]
) -> tuple[np.ndarray, PatchTable]:
    num_classes = len(order)
    patch_HW, size_R, class_R, hole_in_R = patches(index_HW)
    seen_HW = truth_HW != IGNORE_INDEX
    right_HW = index_HW == truth_HW
    base_3C = np.stack(
        [np.bincount(index_HW[where], minlength=num_classes) for where in (right_HW, seen_HW)]
        + [np.bincount(truth_HW[seen_HW], minlength=num_classes)]
    )
    small_R = size_R < SIZES[-1]
    row_R = np.cumsum(small_R) - 1
    small = seen_HW & small_R[patch_HW]
    row_P, truth_P, index_P = row_R[patch_HW[small]], truth_HW[small], index_HW[small]
    next_P = next_best(score_CHW[:, small], index_P, order)
    rows = int(small_R.sum())

    def per_row(where: np.ndarray) -> np.ndarray:
        return np.bincount(row_P[where], minlength=rows)

    def per_cell(where: np.ndarray) -> np.ndarray:
        cell = row_P[where] * num_classes + next_P[where]
        return np.bincount(cell, minlength=rows * num_classes).reshape(rows, num_classes)

    hole_in = hole_in_R[small_R]
    everywhere = np.ones(len(row_P), bool)
    return base_3C, PatchTable(
        tile_R=np.full(rows, position),
        class_R=class_R[small_R],
        hole_in_R=hole_in,
        rank_R=np.searchsorted(SIZES, size_R[small_R], side="right"),
        pixels_R=per_row(everywhere),
        hits_R=per_row(truth_P == index_P),
        hole_hits_R=per_row(truth_P == hole_in[row_P]),
        next_RC=per_cell(everywhere),
        next_hits_RC=per_cell(truth_P == next_P),
    )


def _changed(base_T3C: np.ndarray, table: PatchTable, min_C: np.ndarray, hole_C: np.ndarray) -> np.ndarray:
    """(T, 3, C) counts under sizes given as positions in SIZES."""
    filled_R = (table.hole_in_R >= 0) & (table.rank_R <= hole_C[table.hole_in_R])
    gone_R = ~filled_R & (table.rank_R <= min_C[table.class_R])
    shape = base_T3C.shape[0], base_T3C.shape[2]

    def total(rows_R: np.ndarray, class_R: np.ndarray, count_R: np.ndarray) -> np.ndarray:
        """(T, C) sums of the counts of some rows."""
        cell_R = table.tile_R[rows_R] * shape[1] + class_R[rows_R]
        return np.bincount(cell_R, count_R[rows_R], minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)

    def total_next(count_RC: np.ndarray) -> np.ndarray:
        next_TC = np.zeros(shape, np.int64)
        np.add.at(next_TC, table.tile_R[gone_R], count_RC[gone_R])
        return next_TC

    leaves_R = filled_R | gone_R
    hits_TC = total(filled_R, table.hole_in_R, table.hole_hits_R) + total_next(table.next_hits_RC)
    said_TC = total(filled_R, table.hole_in_R, table.pixels_R) + total_next(table.next_RC)
    changed_T3C = base_T3C.copy()
    changed_T3C[:, 0] += hits_TC - total(leaves_R, table.class_R, table.hits_R)
    changed_T3C[:, 1] += said_TC - total(leaves_R, table.class_R, table.pixels_R)
    return changed_T3C


def _fit_sizes(
    base_T3C: np.ndarray, table: PatchTable, tiles: np.ndarray, order: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) least sizes and (C,) sizes of holes, as positions in SIZES, by coordinate ascent on these tiles' mIoU."""
    merged = _merged(table, np.isin(table.tile_R, tiles))
    base_13C = base_T3C[tiles].sum(0, keepdims=True)
    sizes_2C = np.zeros((2, len(order)), np.int64)

    def value() -> float:
        hit_C, said_C, truth_C = _changed(base_13C, merged, *sizes_2C)[0]
        return miou_of_counts(hit_C, truth_C + said_C - hit_C, truth_C)

    best = value()
    for _ in range(SWEEPS):
        for rule in (0, 1):
            for c in order:
                kept = sizes_2C[rule, c]
                for size in range(len(SIZES)):
                    sizes_2C[rule, c] = size
                    if (tried := value()) > best + 1e-6:
                        best, kept = tried, size
                sizes_2C[rule, c] = kept
    return sizes_2C[0], sizes_2C[1]


def _merged(table: PatchTable, rows: np.ndarray) -> PatchTable:
    """Some rows, as of one tile, with those of one class, hole and rank added up: as few as there are cases."""
    keys_3R = np.stack([table.class_R[rows], table.hole_in_R[rows], table.rank_R[rows]])
    cases_3R, case_R = np.unique(keys_3R, axis=1, return_inverse=True)
    sums = {}
    for name in ("pixels_R", "hits_R", "hole_hits_R", "next_RC", "next_hits_RC"):
        values = getattr(table, name)[rows]
        sums[name] = np.zeros((cases_3R.shape[1], *values.shape[1:]), np.int64)
        np.add.at(sums[name], case_R, values)
    class_R, hole_in_R, rank_R = cases_3R
    return PatchTable(np.zeros(cases_3R.shape[1], np.int64), class_R, hole_in_R, rank_R, **sums)


def _by_group(count_T3C: np.ndarray, group_T: np.ndarray) -> Tally:
    count_G3C = np.zeros((int(group_T.max()) + 1, *count_T3C.shape[1:]), np.int64)
    np.add.at(count_G3C, group_T, count_T3C)
    return tally_of_counts(count_G3C[:, 0], count_G3C[:, 1], count_G3C[:, 2])
