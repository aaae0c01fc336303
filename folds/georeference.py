"""Which tiles belong together by their coordinates: those whose footprints overlap, touch, or lie near each other."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from base.errors import UserError, listed
from base.progress import track
from base.threads import in_threads

PX = 0.5  # of a pixel: how far apart the borders of tiles that touch may be, for the rounding of coordinates
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Footprints:
    """The boxes that tiles cover, in sides of a tile, so that degrees and metres are the same."""

    box_N4: np.ndarray
    """West, south, east, north; of a turned image, the box around it."""
    touch: float
    """How far apart boxes that touch may be: PX."""


@dataclass(frozen=True)
class _Placed:
    box: Box
    crs: CRS | None
    size_px: int


def read_footprints(root: Path, images: list[str]) -> Footprints:
    """The footprints of images, from their headers, in the coordinate system that most of them have.

    Raises:
        UserError: lists images without coordinates, and tells of some with a coordinate system and some without.
    """
    each_placed = in_threads(lambda image: _placed(root / image), images)
    placed = list(track(each_placed, "read coordinates", total=len(images)))
    lost = [image for image, each in zip(images, placed, strict=True) if isinstance(each, str)]
    if lost:
        why = listed(sorted({each for each in placed if isinstance(each, str)}), 3)
        raise UserError(
            f"folds.groups is georeference, and {len(lost)} of {len(images)} train images do not say where they lie "
            f"({why}): {listed(lost)}; folds.groups=mosaic+duplicates finds neighbours from pixels"
        )
    systems = Counter(each.crs for each in placed)
    if None in systems and len(systems) > 1:
        bare = [image for image, each in zip(images, placed, strict=True) if each.crs is None]
        raise UserError(f"{len(bare)} train images have coordinates of an unknown system: {listed(bare)}")
    common = systems.most_common(1)[0][0]
    box_N4 = np.array(
        [each.box if each.crs == common else transform_bounds(each.crs, common, *each.box) for each in placed]
    )
    side_2 = np.median(box_N4[:, 2:] - box_N4[:, :2], axis=0)
    return Footprints(box_N4 / np.tile(side_2, 2), PX / min(each.size_px for each in placed))


def linked_tiles(footprints: Footprints, gap: float, block_tiles: int | None) -> np.ndarray:
    """(P, 2) positions of tiles that must stay together.

    Args:
        gap: in tile sides, along each axis; tiles that are no further apart are linked, 0 those that touch or overlap.
        block_tiles: links across blocks of so many tiles are cut; never those of tiles that share pixels.
    """
    box_N4 = footprints.box_N4
    centre_N2, half_N2 = (box_N4[:, :2] + box_N4[:, 2:]) / 2, (box_N4[:, 2:] - box_N4[:, :2]) / 2
    reach = 2 * half_N2.max() + gap + footprints.touch
    pairs_P2 = cKDTree(centre_N2).query_pairs(reach, p=np.inf, output_type="ndarray")
    a_P, b_P = pairs_P2.T
    apart_P = (np.abs(centre_N2[a_P] - centre_N2[b_P]) - half_N2[a_P] - half_N2[b_P]).max(1)  # below 0: they overlap
    linked_P = apart_P <= gap + footprints.touch
    if block_tiles:
        corner_N2 = _corners(box_N4[:, :2], pairs_P2[linked_P])
        block_N2 = np.floor((centre_N2 - corner_N2) / block_tiles)
        same_P = (block_N2[a_P] == block_N2[b_P]).all(1)
        linked_P &= same_P | (apart_P < -footprints.touch)
    return pairs_P2[linked_P]


def _corners(corner_N2: np.ndarray, pairs_P2: np.ndarray) -> np.ndarray:
    """(N, 2) the south-western corner of the tiles that each is linked to, over any number of links."""
    n = len(corner_N2)
    links = coo_array((np.ones(len(pairs_P2), bool), tuple(pairs_P2.T)), shape=(n, n))
    count, component_N = connected_components(links, directed=False)
    lowest = np.full((count, 2), np.inf)
    np.minimum.at(lowest, component_N, corner_N2)
    return lowest[component_N]


def _placed(path: Path) -> _Placed | str:
    """Where an image lies, or why that cannot be said."""
    try:
        with rasterio.open(path) as file:
            if file.crs is None and file.transform.is_identity:
                return "no coordinates"
            west, south, east, north = array_bounds(file.height, file.width, file.transform)
            # The image of a transform without a flip stands on its head.
            box = (min(west, east), min(south, north), max(west, east), max(south, north))
            return _Placed(box, file.crs, max(file.width, file.height))
    except RasterioError as error:
        return str(error)
