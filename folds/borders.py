"""Which borders continue each other: every right (bottom) border against every left (top) one.

Tiles cut from one scene continue across their common border. The cost of putting b to the right of a is the mean
squared difference between a's last and b's first column, in units of the tiles' own mean squared step from the border
column to the next: near 1 for true neighbours, whatever the sensor, the bands and the texture. Bands are scaled to
equal steps first.

A low cost alone is no evidence: over water, or any texture without structure, many tiles fit. Therefore every tile
competes with mirrored borders too (b's column upside down), which can never be right: a border that tells nothing
fits its own mirror image as well. The margin of a pair is the cost of the next best candidate, mirrored ones included,
divided by its own; and the share of mirrored borders among the winners says how many false pairs a margin lets through
(the target-decoy method of mass spectrometry: Elias and Gygi, Nature Methods 4, 2007).
"""

from dataclasses import dataclass

import numpy as np

from base.progress import track

BLOCK = 512  # borders compared at once: 512 x 32,000 float32 products are 64 MiB

MIN_COST = 0.1


@dataclass(frozen=True)
class Winners:
    """Mutual best matches: b continues a, and nothing fits either of them better."""

    a_P: np.ndarray
    b_P: np.ndarray
    cost_P: np.ndarray
    """Mean squared difference in units of the tiles' own step; near 1 for true neighbours."""
    margin_P: np.ndarray
    """Cost of the next best candidate divided by the cost; 1 says that another fits as well."""
    mirrored_P: np.ndarray
    """Whether b's border won upside down: a false match for certain."""
    lowest_N: np.ndarray
    """For each tile the lowest cost of any border, mutual or not."""


def match_borders(last_N2LB: np.ndarray, first_N2LB: np.ndarray, scale: "Scale") -> Winners:
    """The mutual best matches between `last` borders and `first` ones.

    Args:
        last_N2LB: outermost and next line of pixels on the right (bottom) side of N tiles, L pixels long, B bands.
        first_N2LB: the same of the left (top) side.
    """
    n = len(last_N2LB)
    last, first = Borders.of(last_N2LB, scale), Borders.of(first_N2LB, scale, mirrored=True)
    row_best, row_next = np.full(n, np.inf, np.float32), np.full(n, np.inf, np.float32)
    col_best, col_next = np.full(2 * n, np.inf, np.float32), np.full(2 * n, np.inf, np.float32)
    row_at, col_at = np.zeros(n, np.int64), np.zeros(2 * n, np.int64)
    for start in track(range(0, n, BLOCK), "compare borders"):
        rows = slice(start, min(start + BLOCK, n))
        tiles = np.arange(n)[rows]
        cost_RM = last.costs(rows, first)
        own = np.arange(len(tiles))
        cost_RM[own, tiles] = cost_RM[own, n + tiles] = np.inf  # no tile is its own neighbour
        row_at[rows], row_best[rows], row_next[rows] = _two_lowest(cost_RM)
        at, best, second = _two_lowest(cost_RM.T)
        better = best < col_best
        col_next = np.where(better, np.minimum(col_best, second), np.minimum(col_next, best))
        col_at, col_best = np.where(better, tiles[at], col_at), np.where(better, best, col_best)
    a_P = np.flatnonzero((col_at[row_at] == np.arange(n)) & np.isfinite(row_best))
    col_P = row_at[a_P]
    cost_P = row_best[a_P]
    margin_P = np.minimum(row_next[a_P], col_next[col_P]) / cost_P
    return Winners(a_P, col_P % n, cost_P, margin_P, col_P >= n, row_best)


def border_cost(last_N2LB: np.ndarray, first_N2LB: np.ndarray, a: int, b: int, scale: "Scale") -> float:
    """The cost of one pair."""
    one, other = Borders.of(last_N2LB[a : a + 1], scale), Borders.of(first_N2LB[b : b + 1], scale)
    return float(one.costs(slice(1), other)[0, 0])


@dataclass(frozen=True)
class Scale:
    """What both sides of a comparison have in common."""

    offset_B: np.ndarray
    """Taken off all pixels. It keeps numbers small: squared distances are differences of squares, in float32."""
    unit_B: np.ndarray
    """Multiplied to all pixels: makes the mean squared step 1 in every band, so that bands of any range count alike."""
    floor: float
    """Added to every mean squared step, so that flat borders do not divide by 0."""

    @classmethod
    def of(cls, border_N2LB: np.ndarray) -> "Scale":
        outer_NLB, inner_NLB = border_N2LB.swapaxes(0, 1)
        # Rounding to integers makes steps of 1/12 + 1/12 by itself.
        rounding = 1 / 6 if border_N2LB.dtype.kind == "u" else 1e-30
        step_B = np.mean((outer_NLB.astype(np.float32) - inner_NLB) ** 2, (0, 1), dtype=np.float64)
        unit_B = 1 / np.sqrt(step_B + rounding)
        spread_B = outer_NLB.var((0, 1), dtype=np.float64)
        # A hundredth of the spread of all borders is flat too: below it float32 would decide.
        floor = max((rounding * unit_B**2).mean(), 1e-4 * (spread_B * unit_B**2).mean())
        offset_B = outer_NLB.mean((0, 1), dtype=np.float64)
        return cls(offset_B.astype(np.float32), unit_B.astype(np.float32), float(floor))


@dataclass(frozen=True)
class Borders:
    """One side of all tiles."""

    vector_ND: np.ndarray
    """float32; squared distances between vectors are mean squared differences of pixels."""
    square_N: np.ndarray
    """Squared lengths of the vectors."""
    step_N: np.ndarray
    """Mean squared step from the outermost line to the next."""

    @classmethod
    def of(cls, border_N2LB: np.ndarray, scale: Scale, mirrored: bool = False) -> "Borders":
        """Of N tiles; with `mirrored` of 2N, the second half upside down."""
        n, _, length, bands = border_N2LB.shape
        vector_ND = np.empty((n, length * bands), np.float32)
        step_N = np.empty(n, np.float32)
        to_mean = np.float32(1 / np.sqrt(length * bands))
        for start in range(0, n, BLOCK):
            part = slice(start, start + BLOCK)
            outer, inner = ((border_N2LB[part] - scale.offset_B) * scale.unit_B).swapaxes(0, 1)
            step_N[part] = ((outer - inner) ** 2).mean((1, 2)) + scale.floor
            vector_ND[part] = outer.reshape(len(outer), -1) * to_mean
        if mirrored:
            upside_down = vector_ND.reshape(n, length, bands)[:, ::-1].reshape(n, -1)
            vector_ND, step_N = np.concatenate([vector_ND, upside_down]), np.tile(step_N, 2)
        return cls(vector_ND, (vector_ND**2).sum(1), step_N)

    def costs(self, rows: slice, other: "Borders") -> np.ndarray:
        """(R, M) cost of every border of `other` against some of these."""
        cost_RM = self.vector_ND[rows] @ other.vector_ND.T
        cost_RM *= -2
        cost_RM += self.square_N[rows, None]
        cost_RM += other.square_N
        cost_RM /= (self.step_N[rows, None] + other.step_N) / 2
        # Lower than any two different borders; between equal ones, rounding errors would make margins of any size.
        return np.maximum(cost_RM, MIN_COST, out=cost_RM)


def _two_lowest(cost_RM: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row: where the lowest stands, it, and the second lowest. The matrix is as before afterwards."""
    every = np.arange(len(cost_RM))
    at = cost_RM.argmin(1)
    lowest = cost_RM[every, at]
    cost_RM[every, at] = np.inf
    second = cost_RM.min(1)
    cost_RM[every, at] = lowest
    return at, lowest, second
