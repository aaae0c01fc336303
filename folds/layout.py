"""Pairs of neighbours laid out on grids: each mosaic a sheet of places, and no two tiles in one place."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

STEPS = {"right": (0, 1), "below": (1, 0)}
"""Where the second tile of a pair stands from the first: rows down, columns right."""


@dataclass(frozen=True)
class Layout:
    """Every tile has a mosaic and a place in it; a tile without neighbours is a mosaic of its own."""

    mosaic_N: np.ndarray
    """Number of the tile that names the mosaic: its first."""
    place_N2: np.ndarray
    """Row and column, from 0, in the mosaic."""
    refused: list[int]
    """Positions of the pairs that contradict stronger ones."""

    def adjacent(self) -> list[tuple[int, int, str]]:
        """All (a, b, relation) that stand side by side, whether or not their borders were a pair."""
        at = {(m, r, c): n for n, (m, (r, c)) in enumerate(zip(self.mosaic_N, self.place_N2.tolist(), strict=True))}
        pairs = []
        for (mosaic, row, column), a in at.items():
            for relation, (down, right) in STEPS.items():
                b = at.get((mosaic, row + down, column + right))
                if b is not None:
                    pairs.append((a, b, relation))
        return pairs


def lay_out(n: int, pairs: list[tuple[int, int, str]], fits: Callable[[int, int, str], bool]) -> Layout:
    """Join tiles along `pairs` (a, b, relation), the strongest first.

    A pair is refused if it would put two tiles in one place, or if more of the sides that it brings together do not
    fit than do: one false pair between two mosaics would otherwise merge them.

    Args:
        n: number of tiles.
        pairs: positions of tiles, and where b stands from a; in descending order of evidence.
        fits: whether b's border may continue a's.
    """
    mosaic_N = np.arange(n)
    place_N2 = np.zeros((n, 2), np.int64)
    members = {tile: [tile] for tile in range(n)}
    at = {(tile, 0, 0): tile for tile in range(n)}
    refused = []
    for i, (a, b, relation) in enumerate(pairs):
        offset_2 = place_N2[a] + STEPS[relation] - place_N2[b]
        if mosaic_N[a] == mosaic_N[b]:
            if offset_2.any():
                refused.append(i)
            continue
        # The smaller mosaic moves: each tile moves at most log2(n) times.
        stays, moves = mosaic_N[a], mosaic_N[b]
        if len(members[stays]) < len(members[moves]):
            stays, moves, offset_2 = moves, stays, -offset_2
        new_places = {tile: tuple((place_N2[tile] + offset_2).tolist()) for tile in members[moves]}
        if any((stays, *place) in at for place in new_places.values()) or not _fit(new_places, stays, at, fits):
            refused.append(i)
            continue
        for tile, place in new_places.items():
            del at[(moves, *place_N2[tile].tolist())]
            at[(stays, *place)] = tile
            place_N2[tile] = place
        mosaic_N[members[moves]] = stays
        members[stays] += members.pop(moves)
    for tiles in members.values():
        place_N2[tiles] -= place_N2[tiles].min(0)
        mosaic_N[tiles] = min(tiles)
    return Layout(mosaic_N, place_N2, refused)


def _fit(new_places: dict[int, tuple[int, int]], stays: int, at: dict, fits: Callable[[int, int, str], bool]) -> bool:
    """Whether at least half of the sides that meet when the tiles take their new places do fit."""
    meeting = []
    for tile, (row, column) in new_places.items():
        for relation, (down, right) in STEPS.items():
            after = at.get((stays, row + down, column + right))
            before = at.get((stays, row - down, column - right))
            meeting += [fits(tile, after, relation)] if after is not None else []
            meeting += [fits(before, tile, relation)] if before is not None else []
    return 2 * sum(meeting) >= len(meeting)
