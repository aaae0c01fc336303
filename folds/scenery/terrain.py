"""The land itself: rivers, the lowland around them, forest and fields."""

import cv2
import numpy as np

from folds.scenery.canvas import BARELAND, CONSTRUCTION, FARMLAND, GRASS, INDUSTRIAL, ROAD, RURAL, URBAN, WATER, Canvas
from folds.scenery.noise import PEAK, across, crooked_line, draw_line, fractal, random_direction
from folds.scenery.spectra import any_of

PARCELS = 1024  # different parcels of a scene; a scene of more repeats them far apart
River = tuple[np.ndarray, int]
"""Points (y, x) and width in pixels."""


def plan_rivers(rng: np.random.Generator, size: int, want: float) -> list[River]:
    """Rivers with about two thirds of the wanted water; ponds hold the rest."""
    rivers = []
    left = want * 0.65
    while left > 0:
        width = int(np.clip(left / (1.2 * size), 2, 44))
        rivers.append((crooked_line(rng, *across(rng, size), 0.28), width))
        left -= 1.2 * size * max(width, 20)
    return rivers


def find_lowland(rivers: list[River], hills_HW: np.ndarray, want_C: np.ndarray) -> np.ndarray:
    """(H, W) int32, positive where land is low, near rivers and off the hilltops: enough for fields and people."""
    size = len(hills_HW)
    valley = np.zeros((size // 16 + 2, size // 16 + 2), np.uint8)
    for points, _ in rivers:
        draw_line(valley, points / 16, 3)
    valley = cv2.GaussianBlur(valley.astype(np.uint16) * 16384, (0, 0), 7)
    for _ in range(4):
        valley = cv2.pyrUp(valley)
    low_HW = valley[:size, :size].astype(np.int32) - hills_HW
    # Most of what is built, and half of the rivers and roads, will take its land from the fields.
    people = [GRASS, URBAN, RURAL, INDUSTRIAL, CONSTRUCTION, BARELAND]
    lowland = want_C[FARMLAND] + 0.7 * want_C[people].sum() + 0.5 * want_C[[ROAD, WATER]].sum()
    sample = np.sort(low_HW[::4, ::4], axis=None)
    return low_HW - sample[int((1 - min(lowland / size**2, 0.95)) * (len(sample) - 1))]


def plant_forest(rng: np.random.Generator, canvas: Canvas) -> None:
    """Stands of different trees; clearings that are forest on the map and meadow or soil in the picture."""
    kinds = ("conifers", "conifers", "conifers", "broadleaf", "broadleaf", "broadleaf", "young_trees", "young_trees")
    palette = np.array([any_of(rng, kind) for kind in kinds], np.uint8)
    stands_HW = fractal(rng, canvas.size, canvas.size, 256, 8, 0.6)
    canvas.material_HW[:] = palette[np.clip((stands_HW + PEAK // 2) >> 10, 0, 7)]
    clearings_HW = fractal(rng, canvas.size, canvas.size, 64, 8, 0.6) > PEAK * 0.42
    canvas.cover(clearings_HW, any_of(rng, "meadow", "young_trees", "soil"), 0)


def lay_fields(rng: np.random.Generator, canvas: Canvas, lowland_HW: np.ndarray, crowns_HW: np.ndarray) -> None:
    """Farmland: strips cut into parcels, in up to four districts of different directions, all slightly bent.

    Each parcel has one crop, and rows along or across its strip. Paths between parcels, hedges and the ragged edge of
    the forest are farmland on the map.
    """
    size = canvas.size
    fields_HW = lowland_HW > 0
    halves = [fractal(rng, size, size, 256, 64, 0.5) > 0 for _ in range(2)]
    district_HW = 2 * halves[0].astype(np.int32) + halves[1]
    axes = np.round([random_direction(rng) * 1024 for _ in range(4)]).astype(np.int32)
    y, x = np.arange(size, dtype=np.int32)[:, None], np.arange(size, dtype=np.int32)
    along_y, along_x = axes[:, 0][district_HW], axes[:, 1][district_HW]
    bend_HW = fractal(rng, size, size, 128, 64, 0.5) >> 9
    # 2 * size: the turned coordinates become positive and can index tables.
    u_HW = ((x * along_x + y * along_y) >> 10) + 2 * size + bend_HW
    v_HW = ((y * along_x - x * along_y) >> 10) + 2 * size + bend_HW

    strip_of_u, edge_of_u = _cuts(rng, 4 * size, 26, 84)
    parcel_of_v, edge_of_v = _cuts(rng, 4 * size + 256, 50, 190)
    strip_HW = strip_of_u[u_HW]
    v_HW += rng.integers(0, 256, strip_of_u[-1] + 1, np.int32)[strip_HW]  # parcels of neighbouring strips do not align
    # Odd factors: the parcels around one parcel all get other numbers.
    parcel_HW = (strip_HW * 73 + parcel_of_v[v_HW] * 179 + district_HW * 307) % PARCELS

    crops = ("green_crop", "ripe_crop", "stubble", "ploughed", "paddy")
    season = np.cumsum(rng.uniform(0.2, 1, len(crops)))  # one scene is mostly ploughed, another mostly green
    grown = np.searchsorted(season[:-1], rng.random(PARCELS) * season[-1])
    material = np.array([any_of(rng, crops[crop]) for crop in grown], np.uint8)
    canvas.paint(fields_HW, FARMLAND, material[parcel_HW[fields_HW]])

    pitch = rng.integers(22, 52, PARCELS, np.int32)  # a row every 256 / pitch pixels, 5 to 12
    along = rng.random(PARCELS) < 0.8
    phase_HW = np.where(along[parcel_HW], u_HW, v_HW) * pitch[parcel_HW] & 255
    furrow = (np.abs(np.arange(256) - 128) + 64).astype(np.uint8)  # 64..192, around FLAT
    canvas.tone_HW[fields_HW] = furrow[phase_HW[fields_HW]]

    edge_HW = np.minimum(edge_of_u[u_HW], edge_of_v[v_HW])
    canvas.cover(fields_HW & (edge_HW < 1), any_of(rng, "balk", "track"), 0)
    hedged = rng.random(PARCELS) < 0.2
    hedges_HW = (edge_HW < 4) & hedged[parcel_HW] & (crowns_HW > 10)
    overhang_HW = (lowland_HW < 320) & (crowns_HW > 14)
    canvas.cover(fields_HW & (hedges_HW | overhang_HW), any_of(rng, "tree"), 4)


def draw_rivers(rng: np.random.Generator, canvas: Canvas, rivers: list[River], grass: float) -> None:
    """Water, and strips of grass on its banks, of about `grass` pixels at most."""
    banks_HW, water_HW = np.zeros_like(canvas.index_HW), np.zeros_like(canvas.index_HW)
    for points, width in rivers:
        draw_line(banks_HW, points, width + 16)
        for start in range(0, len(points) - 1, 6):
            draw_line(water_HW, points[start : start + 7], max(2, int(width * rng.uniform(0.75, 1.25))))
    grass_HW = (banks_HW > water_HW) & (fractal(rng, canvas.size, canvas.size, 64, 16, 0.5) > 0)
    grass_HW[np.cumsum(grass_HW.sum(1)) > grass] = False
    canvas.paint(grass_HW, GRASS, any_of(rng, "meadow", "dry_grass"))
    canvas.paint(water_HW > 0, WATER, any_of(rng, "water", "turbid_water"))


def _cuts(rng: np.random.Generator, length: int, shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a line into random pieces: (length,) int32 piece number and (length,) uint8 distance to its nearer end."""
    pieces = rng.integers(shortest, longest, length // shortest + 1)
    number = np.repeat(np.arange(len(pieces), dtype=np.int32), pieces)[:length]
    start = np.cumsum(pieces) - pieces
    position = np.arange(length)
    edge = np.minimum(position - start[number], start[number] + pieces[number] - 1 - position)
    return number, np.minimum(edge, 255).astype(np.uint8)
