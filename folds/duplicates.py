"""Exact and near copies among tiles, also flipped and turned ones, train against test too.

Exact copies have equal pixels. Near copies are found by thumbnails. Candidates are tiles whose 8 x 8 cells correlate in
one of the eight positions of the square; `folds.alike` finds them. What decides is the mean squared difference of
32 x 32 cells, after the best gain and offset per band, in units of the tiles' own mean squared step from cell to cell:
noise, compression, another gain or a shift of a few pixels leave it near 0; two different places have 1 and more.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from folds.alike import alike_pairs
from folds.cells import cell_means
from folds.scan import Scan

COARSE_CELLS = 8
BLOCK = 1024  # tiles or pairs whose thumbnails are read at once
MIN_CORRELATION = 0.9  # of the coarse cells: cheap, and lets near copies through
MAX_DIFFERENCE = 0.25  # of the fine cells, in units of the step; see docs/folds.md for what lies on both sides
TINY = np.float32(1e-12)

SYMMETRIES = {
    "same": lambda x: x,
    "rot90": lambda x: np.rot90(x, 1, (1, 2)),
    "rot180": lambda x: np.rot90(x, 2, (1, 2)),
    "rot270": lambda x: np.rot90(x, 3, (1, 2)),
    "hflip": lambda x: x[:, :, ::-1],
    "vflip": lambda x: x[:, ::-1],
    "transpose": lambda x: x.swapaxes(1, 2),
    "antitranspose": lambda x: np.rot90(x, 2, (1, 2)).swapaxes(1, 2),
}
"""What turns (N, H, W, ...) tiles into the eight positions of the square; turns by 90 degrees need square tiles."""
UPRIGHT = ("same", "rot180", "hflip", "vflip")


@dataclass(frozen=True)
class Duplicates:
    """The copies among N tiles."""

    pairs: pd.DataFrame
    """a, b (positions, a < b), symmetry (what turns b into a), exact (equal pixels), difference (0 for exact ones)."""
    copy_N: np.ndarray
    """bool: a copy of a tile that stands before it."""


def find_duplicates(scan: Scan) -> Duplicates:
    """All copies of a scan's tiles. Tiles of one colour hold nothing to compare and are copies of nothing."""
    textured_N = (scan.std_NB > 0).any(1)
    first_of: dict[str, int] = {}
    exact = [
        (first, n, "same", True, 0.0)
        for n, digest in enumerate(scan.digest_N.tolist())
        if textured_N[n] and (first := first_of.setdefault(digest, n)) != n
    ]
    # Copies are linked to the first of their kind only: a hundred equal tiles are 99 pairs, not 4,950.
    originals = np.array(sorted(first_of.values()), np.int64)
    square = bool((scan.size_N2[:, 0] == scan.size_N2[:, 1]).all())
    near = _near(scan.thumb_NEEB, originals, tuple(SYMMETRIES) if square else UPRIGHT)
    columns = ["a", "b", "symmetry", "exact", "difference"]
    pairs = pd.DataFrame(sorted(exact + near), columns=columns)
    copy_N = np.zeros(len(textured_N), bool)
    copy_N[pairs.b.to_numpy(np.int64)] = True
    return Duplicates(pairs, copy_N)


def _near(
    thumb_NEEB: np.ndarray, originals: np.ndarray, symmetries: tuple[str, ...]
) -> list[tuple[int, int, str, bool, float]]:
    """(a, b, symmetry, not exact, difference) of all near copies among `originals`, each with its best symmetry.

    Thumbnails are mapped and read in blocks: what is held of a tile is its coarse cells.
    """
    if not len(originals):
        return []
    starts = range(0, len(originals), BLOCK)
    unit_NEEB = np.concatenate(
        [_unit(cell_means(thumb_NEEB[originals[start : start + BLOCK]], COARSE_CELLS, (1, 2))) for start in starts]
    )
    alike = alike_pairs(unit_NEEB, {symmetry: SYMMETRIES[symmetry] for symmetry in symmetries}, MIN_CORRELATION)
    near = []
    for start in range(0, len(alike[0]), BLOCK):
        a_P, b_P = (at_P[start : start + BLOCK] for at_P in alike)
        value_SP = np.full((len(symmetries), len(a_P)), np.inf)
        for value_P, symmetry in zip(value_SP, symmetries, strict=True):
            product_P = (unit_NEEB[a_P] * SYMMETRIES[symmetry](unit_NEEB[b_P])).sum((1, 2, 3))
            at_Q = np.flatnonzero(product_P >= MIN_CORRELATION)
            value_P[at_Q] = _differences(thumb_NEEB, originals[a_P[at_Q]], originals[b_P[at_Q]], symmetry)
        best_P = value_SP.argmin(0)
        for p in np.flatnonzero(value_SP.min(0) <= MAX_DIFFERENCE):
            a, b, best = int(originals[a_P[p]]), int(originals[b_P[p]]), best_P[p]
            near.append((a, b, symmetries[best], False, float(value_SP[best, p])))
    return near


def _differences(thumb_NEEB: np.ndarray, a_P: np.ndarray, b_P: np.ndarray, symmetry: str) -> np.ndarray:
    """(P,) mean squared difference after the best gain and offset per band, in units of the mean squared step."""
    value_P = np.empty(len(a_P))
    for start in range(0, len(a_P), BLOCK):
        part = slice(start, start + BLOCK)
        a, b = thumb_NEEB[a_P[part]], SYMMETRIES[symmetry](thumb_NEEB[b_P[part]])
        a, b = (x - x.mean((1, 2), keepdims=True) for x in (a, b))
        gain = (a * b).sum((1, 2), keepdims=True) / np.maximum((b * b).sum((1, 2), keepdims=True), TINY)
        difference = ((a - gain * b) ** 2).mean((1, 2)).sum(1)
        step = sum((np.diff(a, axis=axis) ** 2).mean((1, 2)).sum(1) for axis in (1, 2)) / 2
        value_P[part] = difference / np.maximum(step, TINY)
    return value_P


def _unit(coarse_NEEB: np.ndarray) -> np.ndarray:
    """(N, E, E, B) cells with band means 0 and length 1: the products of two tiles are their correlation."""
    centred_NEEB = coarse_NEEB - coarse_NEEB.mean((1, 2), keepdims=True)
    return centred_NEEB / np.maximum(np.linalg.norm(_rows(centred_NEEB), axis=1), TINY)[:, None, None, None]


def _rows(cells_NEEB: np.ndarray) -> np.ndarray:
    return cells_NEEB.reshape(len(cells_NEEB), -1)
