"""Pairs of tiles whose cells correlate in one of the positions of the square, without comparing all with all.

Locality-sensitive hashing, after Andoni et al., "Practical and Optimal LSH for Angular Distance", 2015. In each of
TABLES tables a tile's turn is the one in which a random direction is most like it: of a copy that was turned it is
another, by just as much. Which two of other directions, turned so, are most like it is its key. Of tiles with one key
those are candidates that have nearly the same signs of the products too; their correlation decides.

The waves that a direction is made of are as strong as their frequency. On land amplitudes fall with it: in white noise
all smooth tiles would be alike and share their keys. Of two tiles that correlate by .85 under these weights a table
finds 10 %, by .9 17 %: at .85 a pair is missed about once in 10,000 times, at .9 in a million. Of 8,000 copies made
of naip in 25 ways one in a thousand lay below .91, and the lowest at .85. Tiles that only their longest waves make
alike lie lower, and most of them are lost.

Rejected: all against all, in blocks of products. For 64,000 synthetic tiles it took 5 times as long, for 16,000 twice,
for 4,000 as long, and for 1,000 a fifth of .17 s. K-d trees over the first 8 to 24 principal components of the cells
took 26 to 51 times as long as those products.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.fft import idctn

from base.progress import track

TABLES = 96
DIRECTIONS = 64  # of each half of a key, and of the first half the signs: a word of 64
MAX_FLIPS = 16  # of 64 signs: two tiles at .9 differ in 9 +- 3, unrelated ones in 32 +- 4
BLOCK = 8192  # tiles whose keys are found at once
PAIRS = 4096  # whose cells are compared at once

Turns = Mapping[str, Callable[[np.ndarray], np.ndarray]]


def alike_pairs(unit_NEEB: np.ndarray, turns: Turns, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions a < b of the pairs that correlate by `least` or more with b turned, each pair once and in order.

    The same ones whatever the order of the tiles. Pairs are held in 8 bytes each; of tiles little beside their cells.

    Args:
        unit_NEEB: float32 cells of the tiles, of mean 0 and length 1: products are correlations.
        turns: what turns (N, E, E, B) cells into each position; with any two of them also the one after the other.
    """
    shape, some_N = unit_NEEB.shape[1:], np.flatnonzero(unit_NEEB.any((1, 2, 3)))  # nothing is like nothing
    unit_NC = (unit_NEEB if len(some_N) == len(unit_NEEB) else unit_NEEB[some_N]).reshape(-1, np.prod(shape))
    cell_SC = np.stack([turn(np.arange(np.prod(shape)).reshape(1, *shape)).ravel() for turn in turns.values()])
    between_SS = _turns_between(cell_SC)
    rng = np.random.default_rng(0)
    found_P = np.empty(0, np.int64)  # a * count + b, sorted
    for _ in track(range(TABLES), "compare tiles"):
        key_N, signs_N, turn_N = _hash(unit_NC, _draw_directions(rng, shape), cell_SC)
        a_P, b_P = np.sort(_same_key(key_N, signs_N), axis=0)
        new_P = ~_contains(found_P, a_P * len(unit_NC) + b_P)
        a_P, b_P = a_P[new_P], b_P[new_P]
        alike_P = _correlations(unit_NC, a_P, b_P, between_SS[turn_N[a_P], turn_N[b_P]], cell_SC) >= least
        more_Q = np.sort(a_P[alike_P] * len(unit_NC) + b_P[alike_P])
        found_P = np.insert(found_P, np.searchsorted(found_P, more_Q), more_Q)
    a_P, b_P = np.divmod(found_P, max(len(unit_NC), 1))
    return some_N[a_P], some_N[b_P]


def _draw_directions(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """(1 + 2 DIRECTIONS, C) noise in (E, E, B) cells, each of its waves as strong as its frequency."""
    noise_DEEB = rng.standard_normal((1 + 2 * DIRECTIONS, *shape), np.float32)
    noise_DEEB *= np.hypot(*np.indices(shape[:2])).astype(np.float32)[..., None]
    return idctn(noise_DEEB, axes=(1, 2), norm="ortho").reshape(len(noise_DEEB), -1)


def _turns_between(cell_SC: np.ndarray) -> np.ndarray:
    """(S, S) what turns a tile that was turned like the second into one turned like the first."""
    number = {cells.tobytes(): turn for turn, cells in enumerate(cell_SC)}
    return np.array([[number[np.argsort(second)[first].tobytes()] for second in cell_SC] for first in cell_SC])


def _hash(
    unit_NC: np.ndarray, direction_DC: np.ndarray, cell_SC: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each tile the key, the signs as a uint64, and the turn of the first direction that it is most like."""
    count = len(unit_NC)
    key_N, signs_N, turn_N = np.empty(count, np.int16), np.empty(count, np.uint64), np.empty(count, np.int64)
    for start in range(0, count, BLOCK):
        unit_BC = unit_NC[start : start + BLOCK]
        turn_B = turn_N[start : start + BLOCK] = (unit_BC @ direction_DC[0][cell_SC].T).argmax(1)
        for turn, cells in enumerate(cell_SC):
            row_R = np.flatnonzero(turn_B == turn)
            product_RD = unit_BC[row_R] @ direction_DC[1:, cells].T
            halves = product_RD[:, :DIRECTIONS], product_RD[:, DIRECTIONS:]
            key_N[start + row_R] = halves[0].argmax(1) * DIRECTIONS + halves[1].argmax(1)
            signs_N[start + row_R] = np.packbits(halves[0] > 0, axis=1).view(np.uint64)[:, 0]
    return key_N, signs_N, turn_N


def _same_key(key_N: np.ndarray, signs_N: np.ndarray) -> np.ndarray:
    """(2, P) pairs of one key and nearly the same signs."""
    tile_N = np.argsort(key_N, kind="stable")
    key_N, signs_N = key_N[tile_N], signs_N[tile_N]
    size_R = np.diff(np.flatnonzero(np.diff(key_N, prepend=-1, append=-1)))
    size_N = np.repeat(size_R, size_R)
    pairs = [np.empty((2, 0), np.int64)]
    for apart in range(1, size_R.max(initial=0)):  # each with the next in order, then with the one after that
        if apart & (apart - 1) == 0:  # at 1, 2, 4, ...: keys that have no two so far apart are done
            more_N = size_N > apart
            tile_N, key_N, signs_N, size_N = tile_N[more_N], key_N[more_N], signs_N[more_N], size_N[more_N]
        near_P = np.bitwise_count(signs_N[:-apart] ^ signs_N[apart:]) <= MAX_FLIPS
        first_P = np.flatnonzero(near_P & (key_N[:-apart] == key_N[apart:]))
        pairs.append(np.stack([tile_N[first_P], tile_N[first_P + apart]]))
    return np.concatenate(pairs, axis=1)


def _contains(sorted_M: np.ndarray, value_P: np.ndarray) -> np.ndarray:
    """(P,) bool: which values are among the sorted ones."""
    if not len(sorted_M):
        return np.zeros(len(value_P), bool)
    return sorted_M[np.minimum(np.searchsorted(sorted_M, value_P), len(sorted_M) - 1)] == value_P


def _correlations(
    unit_NC: np.ndarray, a_P: np.ndarray, b_P: np.ndarray, turn_P: np.ndarray, cell_SC: np.ndarray
) -> np.ndarray:
    """(P,) products of each a with its b, turned."""
    value_P = np.empty(len(a_P), np.float32)
    for turn, cells in enumerate(cell_SC):
        pair_T = np.flatnonzero(turn_P == turn)
        for start in range(0, len(pair_T), PAIRS):
            part = pair_T[start : start + PAIRS]
            value_P[part] = np.einsum("pc,pc->p", unit_NC[a_P[part]], unit_NC[b_P[part]][:, cells])
    return value_P
