"""Exact and near copies among tiles, also flipped and turned ones, train against test too.

Exact copies have equal pixels. Near copies are found by thumbnails. Candidates come from the correlation of 8 x 8
cells, all against all, in blocks, in the eight positions of the square. What decides is the mean squared difference of
32 x 32 cells, after the best gain and offset per band, in units of the tiles' own mean squared step from cell to cell:
noise, compression, another gain or a shift of a few pixels leave it near 0; two different places have 1 and more.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from base.progress import track
from folds.scan import Scan

COARSE_CELLS = 8
BLOCK, WIDTH = 1024, 4096  # tiles compared at once with others: 16 MiB of products
MIN_CORRELATION = 0.9  # of the coarse cells: cheap, and lets every near copy through
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

    Thumbnails are mapped and read in blocks, and so are the products: what is held of a tile is its coarse cells.
    """
    count = len(originals)
    if not count:
        return []
    blocks = [originals[start : start + BLOCK] for start in range(0, count, BLOCK)]
    coarse = np.concatenate([_coarse(thumb_NEEB[block]) for block in blocks])
    row_ND = _unit(coarse)
    best: dict[tuple[int, int], tuple[float, str]] = {}
    for symmetry in track(symmetries, "compare tiles"):
        turned_ND = _unit(SYMMETRIES[symmetry](coarse))
        for row in range(0, count, BLOCK):
            for column in range(row, count, WIDTH):
                alike_RM = row_ND[row : row + BLOCK] @ turned_ND[column : column + WIDTH].T
                a_P, b_P = np.nonzero(np.triu(alike_RM >= MIN_CORRELATION, row - column + 1))  # b stands after a
                a_P, b_P = originals[row + a_P], originals[column + b_P]
                value_P = _differences(thumb_NEEB, a_P, b_P, symmetry)
                for a, b, value in zip(a_P.tolist(), b_P.tolist(), value_P.tolist(), strict=True):
                    if value <= MAX_DIFFERENCE and value < best.get((a, b), (np.inf,))[0]:
                        best[a, b] = (value, symmetry)
    return [(a, b, symmetry, False, value) for (a, b), (value, symmetry) in best.items()]


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


def _coarse(thumb_NEEB: np.ndarray) -> np.ndarray:
    """(N, 8, 8, B) sums over the thumbnails' cells."""
    size = thumb_NEEB.shape[1]
    starts = np.unique(np.arange(COARSE_CELLS) * size // COARSE_CELLS)
    return np.add.reduceat(np.add.reduceat(thumb_NEEB, starts, axis=1), starts, axis=2)


def _unit(coarse: np.ndarray) -> np.ndarray:
    """(N, D) vectors of length 1 and band means 0, so that their products are correlations."""
    row_ND = (coarse - coarse.mean((1, 2), keepdims=True)).reshape(len(coarse), -1)
    return row_ND / np.maximum(np.linalg.norm(row_ND, axis=1, keepdims=True), TINY)
