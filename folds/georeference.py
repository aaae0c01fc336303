"""Which tiles belong together by their coordinates: those whose footprints overlap, touch, or lie near each other."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what GDAL raises through rasterio; it has no public name
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from base.errors import UserError, listed
from base.threads import track_in_threads

PX = 0.5  # of a pixel: how far apart the borders of tiles that touch may be, for the rounding of coordinates
TURN = 360.0  # degrees
NO_PLACE = (np.nan,) * 4
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Footprints:
    """The boxes that tiles cover, in sides of a tile, so that degrees and metres are the same."""

    box_N4: np.ndarray
    """West, south, east, north; of a turned image, the box around it; NaN: of an image that does not say."""
    touch_2: np.ndarray
    """How far apart boxes that touch may be, across and along: PX of a pixel."""


@dataclass(frozen=True)
class Beside:
    """Pairs of tiles by their coordinates, as (P, 2) positions."""

    shared_P2: np.ndarray
    """Share pixels."""
    touching_P2: np.ndarray
    """Only touch, at sides or corners."""
    known_N: np.ndarray
    """bool of each tile: it says where it lies; of the others nothing is known."""
    carried_N: np.ndarray
    """bool of each tile: it says where its scene lies, which is no place of its own."""

    @classmethod
    def nothing_known(cls, n: int) -> "Beside":
        return cls(*np.empty((2, 0, 2), np.int64), *np.zeros((2, n), bool))


@dataclass(frozen=True)
class _Placed:
    box: Box
    crs: CRS | None
    size_px: tuple[int, int]
    """Across and along."""


def read_footprints(root: Path, images: list[str]) -> Footprints:
    """The footprints of images, from their headers, in the coordinate system that most of them have.

    Raises:
        UserError: lists images without coordinates, or with some that mean nothing beside those of the others; all have
            the same.
    """
    footprints, lost_of = find_footprints(root, images)
    if lost_of:
        why = listed(sorted(set(lost_of.values())), 3)
        raise UserError(
            f"folds.groups is georeference, and {len(lost_of)} of {len(images)} train images do not say where they lie "
            f"({why}): {listed(lost_of)}; folds.groups=mosaic+duplicates finds neighbours from pixels"
        )
    if len(images) > 1 and (footprints.box_N4 == footprints.box_N4[0]).all():
        raise UserError(
            f"folds.groups is georeference, and {len(images)} train images have exactly the same coordinates: they "
            f"carry their scene's. Give each its own where tiles are cut, as python -m folds.cut does; "
            f"folds.groups=mosaic+duplicates finds neighbours from pixels"
        )
    return footprints


def find_footprints(root: Path, images: list[str]) -> tuple[Footprints, dict[str, str]]:
    """The footprints of those images that say where they lie, and image -> why not of the others."""
    placed = list(track_in_threads(lambda image: _placed(root / image), images, "read coordinates"))
    systems = Counter(each.crs for each in placed if isinstance(each, _Placed) and each.crs is not None)
    common = systems.most_common(1)[0][0] if systems else None  # None: as world files give them
    lost_of, box_N4 = {}, np.full((len(images), 4), np.nan)
    with rasterio.Env():  # outside of it, GDAL prints what it raises
        for row, (image, each) in enumerate(zip(images, placed, strict=True)):
            box = each if isinstance(each, str) else _box_in(common, each)
            if isinstance(box, str):
                lost_of[image] = box
            else:
                box_N4[row] = box
    known_N = np.isfinite(box_N4).all(1)
    if not known_N.any():
        return Footprints(box_N4, np.zeros(2)), lost_of
    if common is not None and common.is_geographic:
        box_N4[known_N] = _unrolled(box_N4[known_N])
    size_N2 = np.array([each.size_px for each, known in zip(placed, known_N, strict=True) if known])
    side_N2 = (box_N4[:, 2:] - box_N4[:, :2])[known_N]
    side_2 = np.median(side_N2, axis=0)
    touch_2 = PX * np.median(side_N2 / size_N2, axis=0) / side_2
    return Footprints(box_N4 / np.tile(side_2, 2), touch_2), lost_of


def _box_in(common: CRS | None, placed: _Placed) -> Box | str:
    """A tile's box in another system, or why there is none."""
    if placed.crs is None and common is not None:
        return "coordinates of an unknown system"
    try:
        box = placed.box if placed.crs == common else transform_bounds(placed.crs, common, *placed.box)
    except (RasterioError, CRSError, CPLE_BaseError):
        box = NO_PLACE
    return box if np.isfinite(box).all() else "no place in the system that most of them have"


def _unrolled(box_N4: np.ndarray) -> np.ndarray:
    """Boxes in degrees, with longitudes counted on from the widest stretch without a tile: 180 east is 180 west."""
    west_N, south_N, east_N, north_N = box_N4.T
    width_N = np.where(east_N < west_N, east_N + TURN, east_N) - west_N
    sorted_N = np.sort(west_N % TURN)
    gap_N = np.diff(sorted_N, append=sorted_N[0] + TURN)
    first = sorted_N[(gap_N.argmax() + 1) % len(sorted_N)]
    west_N = (west_N - first) % TURN
    return np.stack([west_N, south_N, west_N + width_N, north_N], axis=1)


def linked_tiles(footprints: Footprints, gap: float, block_tiles: int | None) -> np.ndarray:
    """(P, 2) positions of tiles that must stay together.

    Args:
        gap: in tile sides, along each axis; tiles that are no further apart are linked, 0 those that touch or overlap.
        block_tiles: links across blocks of so many tiles are cut; never those of tiles that share pixels.
    """
    pairs_P2, shares_P = _near(footprints, gap)
    if not block_tiles:
        return pairs_P2
    box_N4 = footprints.box_N4
    corner_N2 = _corners(box_N4[:, :2], pairs_P2)
    block_N2 = np.floor(((box_N4[:, :2] + box_N4[:, 2:]) / 2 - corner_N2) / block_tiles)
    a_P, b_P = pairs_P2.T
    return pairs_P2[(block_N2[a_P] == block_N2[b_P]).all(1) | shares_P]


def tiles_beside(footprints: Footprints, neighbours_P2: np.ndarray) -> Beside:
    """Which tiles share pixels or touch, as far as coordinates can be believed.

    Args:
        neighbours_P2: tiles that stand side by side by their borders. Where two of them have exactly the same
            coordinates, these were copied from the scene to all of its tiles.
    """
    known = np.flatnonzero(np.isfinite(footprints.box_N4).all(1))
    place_N = np.full(len(footprints.box_N4), -1)
    place_N[known] = np.unique(footprints.box_N4[known], axis=0, return_inverse=True)[1].ravel()
    a_P, b_P = neighbours_P2.T
    claimed = place_N[a_P[place_N[a_P] == place_N[b_P]]]
    is_one_place = len(known) > 1 and not place_N[known].any()
    carried_N = (place_N >= 0) & (np.isin(place_N, claimed) | is_one_place)
    box_N4 = np.where(carried_N[:, None], np.nan, footprints.box_N4)
    pairs_P2, shares_P = _near(Footprints(box_N4, footprints.touch_2), gap=0.0)
    return Beside(pairs_P2[shares_P], pairs_P2[~shares_P], (place_N >= 0) & ~carried_N, carried_N)


def _near(footprints: Footprints, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) positions of tiles no further apart than `gap` along each axis, and (P,) whether they share pixels."""
    known = np.flatnonzero(np.isfinite(footprints.box_N4).all(1))
    box_N4, touch_2 = footprints.box_N4[known], footprints.touch_2
    centre_N2, half_N2 = (box_N4[:, :2] + box_N4[:, 2:]) / 2, (box_N4[:, 2:] - box_N4[:, :2]) / 2
    reach = 2 * half_N2.max(initial=0) + gap + touch_2.max()
    pairs_P2 = cKDTree(centre_N2).query_pairs(reach, p=np.inf, output_type="ndarray")
    a_P, b_P = pairs_P2.T
    apart_P2 = np.abs(centre_N2[a_P] - centre_N2[b_P]) - half_N2[a_P] - half_N2[b_P]  # both below 0: they overlap
    near_P = (apart_P2 <= gap + touch_2).all(1)
    return known[pairs_P2[near_P]], (apart_P2[near_P] < -touch_2).all(1)


def _corners(corner_N2: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """(N, 2) the south-western corner of the tiles that each is linked to, over any number of links."""
    first_N = first_linked(len(corner_N2), pairs_P2)
    lowest_N2 = np.full(corner_N2.shape, np.inf)
    np.minimum.at(lowest_N2, first_N, corner_N2)
    return lowest_N2[first_N]


def first_linked(n: int, pairs_P2: np.ndarray) -> np.ndarray:
    """(n,) of each tile the first that is linked to it, over any number of links: itself where none is."""
    links = coo_array((np.ones(len(pairs_P2), bool), tuple(pairs_P2.T)), shape=(n, n))
    count, component_N = connected_components(links, directed=False)
    first = np.full(count, n, np.int64)
    np.minimum.at(first, component_N, np.arange(n))
    return first[component_N]


def _placed(path: Path) -> _Placed | str:
    """Where an image lies, or why that cannot be said."""
    try:
        with rasterio.open(path) as file:
            if file.crs is None and file.transform.is_identity:
                return "no coordinates"
            west, south, east, north = array_bounds(file.height, file.width, file.transform)
            # The image of a transform without a flip stands on its head.
            box = (min(west, east), min(south, north), max(west, east), max(south, north))
            return _Placed(box, file.crs, (file.width, file.height))
    except (RasterioError, CRSError) as error:
        return str(error)
