"""Roads, what stands along them, and patches of ponds, bare land and grass."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from folds.scenery.buildings import Sheet
from folds.scenery.canvas import BARELAND, FARMLAND, FLAT, GRASS, ROAD, Canvas
from folds.scenery.noise import PEAK, across, blob, crooked_line, draw_line, fractal, norm, random_direction
from folds.scenery.spectra import any_of

ENOUGH = 0.93  # of the wanted pixels: the next place would more often overshoot than fill the gap
MISSES = 40  # sites refused in a row, after which the scene counts as full


def build_roads(rng: np.random.Generator, canvas: Canvas, want: float) -> np.ndarray:
    """Highways from side to side, then lanes that branch off, together of about `want` pixels.

    Returns:
        (P, 4) places on the roads, y, x, and the road's direction there, dy, dx.
    """
    size = canvas.size
    places = np.zeros((0, 4))
    built = 0
    while built < want * ENOUGH:
        if built < want / 2:
            points, width = crooked_line(rng, *across(rng, size), 0.12), np.clip(0.6 * want / size, 2, 8)
            surface = any_of(rng, "asphalt")
        else:
            start = places[rng.integers(len(places)), :2]
            end = start + random_direction(rng) * rng.uniform(0.2, 0.5) * min(size, 1200)
            points, width = crooked_line(rng, start, end, 0.15), np.clip(0.4 * want / size, 2, 5)
            surface = any_of(rng, "asphalt", "concrete", "concrete", "track")
        line_HW = np.zeros_like(canvas.index_HW)
        draw_line(line_HW, points, round(width * rng.uniform(0.8, 1.2)))
        new_HW = (line_HW > 0) & (canvas.index_HW != ROAD)
        built += max(np.count_nonzero(new_HW), 1)  # 1: a scene that is all road ends too
        canvas.paint(new_HW, ROAD, surface)
        step = np.diff(points, axis=0)
        unit = step / np.sqrt(step[:, :1] ** 2 + step[:, 1:] ** 2)
        here = np.concatenate([(points[:-1] + points[1:]) / 2, unit], 1)
        places = np.concatenate([places, here[((here[:, :2] >= 0) & (here[:, :2] < size)).all(1)]])
    return places


def settle(
    rng: np.random.Generator,
    canvas: Canvas,
    index: int,
    want: float,
    roads: np.ndarray,
    draw_sheet: Callable[[np.random.Generator, int, int], Sheet],
    sides: tuple[int, int],
    offset: float,
) -> None:
    """Build places of one class along the roads until it has about `want` pixels.

    Args:
        roads: as `build_roads` returns them.
        draw_sheet: from `buildings`.
        sides: shortest and longest length along the road, in pixels.
        offset: distance of the centre from the road, as a share of the depth.
    """
    built = misses = 0
    while built < want * ENOUGH and misses < MISSES:
        length, depth = _sides(rng, sides, want - built)
        y, x, dy, dx = roads[rng.integers(len(roads))]
        aside = offset * depth if rng.random() < 0.5 else -offset * depth
        site = _turned(canvas, (y + aside * dx, x - aside * dy), (dy, dx), depth, length)
        land = canvas.part(site.where)
        # Valleys first; in the forest only when the fields are full.
        fit = site.free & (land.index_HW == FARMLAND) if misses < MISSES // 2 else site.free
        if np.count_nonzero(fit) < 0.6 * depth * length:
            misses += 1
            continue
        misses = 0
        sheet = draw_sheet(rng, depth, length)
        inside = site.free & sheet.inside[site.v, site.u]
        # What a road or a river runs through is not built.
        number = sheet.building[site.v, site.u]
        cut = (number > 0) & np.isin(number, np.unique(number[~inside]))
        land.index_HW[inside] = index
        land.material_HW[inside] = np.where(cut, sheet.floor[site.v, site.u], sheet.material[site.v, site.u])[inside]
        land.height_HW[inside] = np.where(cut, 0, sheet.height[site.v, site.u])[inside]
        land.tone_HW[inside] = np.where(cut, FLAT, sheet.tone[site.v, site.u])[inside]
        built += np.count_nonzero(inside)


def spread(
    rng: np.random.Generator,
    canvas: Canvas,
    index: int,
    want: float,
    materials: tuple[str, ...],
    sides: tuple[int, int],
    specks: str | None = None,
) -> None:
    """Lay irregular patches of a class, on fields more often than in forest, until it has about `want` pixels.

    Args:
        materials: each patch is one of them.
        specks: a second material, in specks all over the patch.
    """
    laid = np.count_nonzero(canvas.index_HW == index)
    misses = 0
    while laid < want * ENOUGH and misses < MISSES:
        length, depth = _sides(rng, sides, (want - laid) * 1.4)  # 1.4: a blob does not fill its rectangle
        spots = rng.integers(0, canvas.size, (6, 2))
        in_fields = spots[canvas.index_HW[spots[:, 0], spots[:, 1]] == FARMLAND]
        site = _turned(canvas, (*in_fields, *spots)[0], random_direction(rng), depth, length)
        if np.count_nonzero(site.free) < 0.8 * depth * length:
            misses += 1
            continue
        misses = 0
        land = canvas.part(site.where)
        patch = site.free & blob(rng, depth, length)[site.v, site.u]
        land.paint(patch, index, any_of(rng, *materials))
        if specks:
            land.cover(patch & (fractal(rng, *patch.shape, 16, 2, 0.7) > PEAK // 5), any_of(rng, specks), 0)
        laid += np.count_nonzero(patch)


def scatter_trees(rng: np.random.Generator, canvas: Canvas, crowns_HW: np.ndarray) -> None:
    """Lone trees and copses in the open: in the picture, not on the map."""
    copses_HW = fractal(rng, canvas.size, canvas.size, 128, 32, 0.5)
    open_HW = np.isin(canvas.index_HW, (FARMLAND, GRASS, BARELAND))
    canvas.cover(open_HW & (crowns_HW + (copses_HW >> 8) > 36), any_of(rng, "tree"), 4)


@dataclass(frozen=True)
class Site:
    """Where a sheet comes to lie on the scene."""

    where: tuple[slice, slice]
    """Rows and columns of the scene: the box around the turned sheet."""
    v: np.ndarray
    """(H, W) of the box: the row of the sheet that lies there, or the nearest one."""
    u: np.ndarray
    """(H, W) of the box: its column."""
    free: np.ndarray
    """(H, W) bool: under the sheet, and field or forest until now."""


def _turned(canvas: Canvas, centre: np.ndarray, direction: np.ndarray, depth: int, length: int) -> Site:
    """A sheet of (depth, length) around `centre` (y, x), its length turned into `direction` (y, x)."""
    reach = int(norm((depth, length)) / 2) + 2
    cy, cx = (min(max(int(c), 0), canvas.size - 1) for c in centre)
    where = tuple(slice(max(c - reach, 0), min(c + reach, canvas.size)) for c in (cy, cx))
    y = np.arange(where[0].start, where[0].stop)[:, None] - cy
    x = np.arange(where[1].start, where[1].stop) - cx
    dy, dx = (round(float(part) * 1024) for part in direction)
    u = ((x * dx + y * dy) >> 10) + length // 2
    v = ((y * dx - x * dy) >> 10) + depth // 2
    under = (u >= 0) & (u < length) & (v >= 0) & (v < depth)
    return Site(where, np.clip(v, 0, depth - 1), np.clip(u, 0, length - 1), under & canvas.part(where).free)


def _sides(rng: np.random.Generator, sides: tuple[int, int], area: float) -> tuple[int, int]:
    """Length and depth of a place, within `sides` and of about `area` pixels at most."""
    length = rng.uniform(*sides)
    depth = length * rng.uniform(0.5, 0.9)
    shrink = min(1.0, float(np.sqrt(max(area, 60.0) * 1.1 / (length * depth))))
    return max(6, int(length * shrink)), max(6, int(depth * shrink))
