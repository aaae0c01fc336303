"""Pairs of tiles whose cells correlate in one of the positions of the square.

Few tiles are compared all with all, in blocks of products. Of many, only those that share a key: locality-sensitive
hashing, after Andoni et al., "Practical and Optimal LSH for Angular Distance", 2015. In each of TABLES tables every
tile is turned until a random direction is most like it: a copy that was turned comes back to the same position. Which
two of other directions are most like it then is its key, and the products of tiles with one key decide.

The waves that a direction is made of are as strong as their frequency. On land amplitudes fall with it: in white noise
all smooth tiles would be alike and share their keys. Of two tiles that correlate by .85 under these weights a table
finds 10 %, by .9 17 %: at .85 a pair is missed about once in 10,000 times, at .9 in a million. Of 8,000 copies made
of naip in 25 ways one in a thousand lay below .91, and the lowest at .85. Tiles that only their longest waves make
alike lie lower, and most of them are lost.

Hashing is given up, for all with all, as soon as its products are more than HASHING_COST of theirs: with fewer than
13,000 tiles before it begins, later where so many look alike that they share their keys. So no search takes much more
than all with all, and what is found of few tiles, or of many look-alikes, is all that there is.

Rejected: k-d trees over the first 8 to 24 principal components of the cells, 26 to 51 times as slow as all with all.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.fft import idctn

from base.progress import track

TABLES = 96
DIRECTIONS = 64  # of each half of a key
BLOCK = 2048  # tiles compared at once with as many others: 16 MiB of products
HASHING_COST = 0.25  # of the products of all with all, at most: each takes about four times as long as one of those

Turns = Mapping[str, Callable[[np.ndarray], np.ndarray]]


def alike_pairs(unit_NEEB: np.ndarray, turns: Turns, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions a < b of the pairs that correlate by `least` or more with b turned, each pair once and in order.

    The same ones whatever the order of the tiles. Pairs are held in 8 bytes each, and the cells twice.

    Args:
        unit_NEEB: float32 cells of the tiles, of mean 0 and length 1: products are correlations.
        turns: what turns (N, E, E, B) cells into each position; with any two of them also the one after the other.
    """
    shape, some_N = unit_NEEB.shape[1:], np.flatnonzero(unit_NEEB.any((1, 2, 3)))  # nothing is like nothing
    unit_NC = (unit_NEEB if len(some_N) == len(unit_NEEB) else unit_NEEB[some_N]).reshape(-1, np.prod(shape))
    cell_SC = np.stack([turn(np.arange(np.prod(shape)).reshape(1, *shape)).ravel() for turn in turns.values()])
    pair_P = _by_hashing(unit_NC, shape, cell_SC, least)
    if pair_P is None:
        pair_P = _all_with_all(unit_NC, cell_SC, least)
    a_P, b_P = np.divmod(pair_P, max(len(unit_NC), 1))
    return some_N[a_P], some_N[b_P]


def _by_hashing(
    unit_NC: np.ndarray, shape: tuple[int, int, int], cell_SC: np.ndarray, least: float
) -> np.ndarray | None:
    """(P,) pairs a * N + b that share a key in some table, sorted; None: all with all takes fewer products."""
    count, positions = len(unit_NC), len(cell_SC)
    left = HASHING_COST * positions * count**2 / 2 - TABLES * count * (positions + 2 * DIRECTIONS)
    if left < 0:
        return None
    rng = np.random.default_rng(0)
    pair_P = np.empty(0, np.int64)
    for _ in track(range(TABLES), "compare tiles"):
        turned_NC, key_N = _hash(unit_NC, _draw_directions(rng, shape), cell_SC)
        tile_N = np.argsort(key_N, kind="stable")  # of one key they stay in order, a before b
        _, first_K, size_K = np.unique(key_N[tile_N], return_index=True, return_counts=True)
        left -= (size_K**2).sum()
        if left < 0:
            return None
        found = [pair_P]
        for size in np.unique(size_K[size_K > 1]):
            first_G = first_K[size_K == size]
            step = max((BLOCK // size) ** 2, 1)
            for start in range(0, len(first_G), step):
                tile_GM = tile_N[first_G[start : start + step, None] + np.arange(size)]
                cells_GMC = turned_NC[tile_GM]
                g_Q, a_Q, b_Q = _products(cells_GMC, cells_GMC, least)
                found.append(tile_GM[g_Q, a_Q] * count + tile_GM[g_Q, b_Q])
        pair_P = np.unique(np.concatenate(found))
    return pair_P


def _all_with_all(unit_NC: np.ndarray, cell_SC: np.ndarray, least: float) -> np.ndarray:
    """(P,) pairs a * N + b, sorted."""
    found = [np.empty(0, np.int64)]
    for cells in track(cell_SC, "compare tiles"):
        _, a_Q, b_Q = _products(unit_NC[None], unit_NC[None, :, cells], least)
        found.append(a_Q * len(unit_NC) + b_Q)
    return np.unique(np.concatenate(found))


def _products(unit_GMC: np.ndarray, turned_GMC: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups g and positions a < b in them, where the product of a with b turned is `least` or more."""
    tiles = unit_GMC.shape[1]
    found = [np.empty((3, 0), np.int64)]
    for row in range(0, tiles, BLOCK):
        for column in range(row, tiles, BLOCK):
            alike_GAB = unit_GMC[:, row : row + BLOCK] @ turned_GMC[:, column : column + BLOCK].swapaxes(1, 2) >= least
            g_Q, a_Q, b_Q = np.unravel_index(np.flatnonzero(alike_GAB), alike_GAB.shape)
            after_Q = row + a_Q < column + b_Q
            found.append(np.stack([g_Q[after_Q], row + a_Q[after_Q], column + b_Q[after_Q]]))
    g_P, a_P, b_P = np.concatenate(found, axis=1)
    return g_P, a_P, b_P


def _hash(unit_NC: np.ndarray, direction_DC: np.ndarray, cell_SC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) the tiles, turned to where the first direction is most like them, and (N,) their keys there."""
    # To turn the direction the other way makes the same product as to turn the tile.
    turn_N = (unit_NC @ direction_DC[0][np.argsort(cell_SC, axis=1)].T).argmax(1)
    turned_NC = np.empty_like(unit_NC)
    for turn, cells in enumerate(cell_SC):
        turned_NC[turn_N == turn] = unit_NC[turn_N == turn][:, cells]
    product_ND = turned_NC @ direction_DC[1:].T
    return turned_NC, product_ND[:, :DIRECTIONS].argmax(1) * DIRECTIONS + product_ND[:, DIRECTIONS:].argmax(1)


def _draw_directions(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """(1 + 2 DIRECTIONS, C) noise in (E, E, B) cells, each of its waves as strong as its frequency."""
    noise_DEEB = rng.standard_normal((1 + 2 * DIRECTIONS, *shape), np.float32)
    noise_DEEB *= np.hypot(*np.indices(shape[:2])).astype(np.float32)[..., None]
    return idctn(noise_DEEB, axes=(1, 2), norm="ortho").reshape(len(noise_DEEB), -1)
