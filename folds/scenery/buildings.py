"""Built-up land on a flat sheet, drawn along its main street (the u axis): villages, towns, industry, sites.

A sheet is drawn with its streets along the axes and is turned into place by `places`. Its label covers all of it,
yards and trees included, as land-use maps do; so a single pixel says little about its class.
"""

from dataclasses import dataclass, field

import numpy as np

from folds.scenery.canvas import FLAT
from folds.scenery.noise import PEAK, blob, fractal
from folds.scenery.spectra import any_of


@dataclass
class Sheet:
    """Everything is (V, U). A building can be left out later, where a road or river runs: its number tells it apart."""

    inside: np.ndarray
    """bool: what belongs to the place."""
    floor: np.ndarray
    """uint8 material below the buildings."""
    material: np.ndarray = field(init=False)
    height: np.ndarray = field(init=False)
    tone: np.ndarray = field(init=False)
    building: np.ndarray = field(init=False)
    """uint16 number of the building; 0: none."""

    def __post_init__(self) -> None:
        self.material = self.floor.copy()
        self.height = np.zeros_like(self.floor)
        self.tone = np.full_like(self.floor, FLAT)
        self.building = np.zeros(self.floor.shape, np.uint16)

    def build(self, v: int, u: int, depth: int, length: int, material: int, height: int, roof: str = "flat") -> None:
        """Put a building with its corner at (v, u) unless it would stand partly outside.

        Roofs: flat; gable (one slope lit, one dark, ridge along the longer side); ribs (sheet metal).
        """
        where = slice(v, v + depth), slice(u, u + length)
        plot = self.inside[where]
        if v < 0 or u < 0 or plot.shape != (depth, length) or not plot.all():
            return
        self.material[where] = material
        self.height[where] = height
        self.building[where] = self.building.max() + 1
        if roof == "gable":
            across = np.arange(depth)[:, None] * 2 < depth if length >= depth else np.arange(length) * 2 < length
            self.tone[where] = np.where(across, FLAT + 60, FLAT - 60)
        elif roof == "ribs":
            self.tone[where] = FLAT + 40 * (np.arange(length) % 6 < 3) - 20
        else:
            self.tone[where] = FLAT

    def stand(self, where: np.ndarray, material: int, height: int) -> None:
        """Trees, heaps, containers: anything of no fixed shape, beside the buildings."""
        where = where & (self.building == 0)
        self.material[where] = material
        self.height[where] = height


def village(rng: np.random.Generator, depth: int, length: int) -> Sheet:
    """Small roofs in rows on both sides of lanes, with yards of soil, concrete and grass, and trees between them."""
    sheet = Sheet(
        blob(rng, depth, length),
        _patches(rng, depth, length, ("soil", "balk", "dry_grass", "concrete", "meadow", "tree")),
    )
    roofs = [any_of(rng, "red_roof", "grey_roof", "grey_roof", "blue_roof") for _ in range(5)]
    trees = fractal(rng, depth, length, 8, 4, 0.6) > rng.integers(PEAK // 8, PEAK // 4)
    v = rng.integers(1, 5)
    while v < depth:
        row_depth = int(rng.integers(5, 8))
        u = rng.integers(0, 5)
        while u < length:
            width = int(rng.integers(6, 12))
            if rng.random() < 0.85:
                jitter = int(rng.integers(-1, 2))
                sheet.build(v + jitter, u, row_depth, width, roofs[rng.integers(5)], 3, "gable")
                if rng.random() < 0.4:  # a shed across the yard
                    sheet.build(v + jitter + row_depth, u, 5, 5, roofs[rng.integers(5)], 2)
            u += width + rng.integers(1, 5)
        v += row_depth + rng.integers(4, 8)
    sheet.stand(trees, any_of(rng, "tree"), 4)
    return sheet


def town(rng: np.random.Generator, depth: int, length: int) -> Sheet:
    """Blocks between streets: slabs and towers with long shadows, row houses, courtyards with lawn and trees."""
    block_v, block_u, street = int(rng.integers(26, 38)), int(rng.integers(30, 50)), 5
    sheet = Sheet(
        _trimmed(rng, depth, length), _plots(rng, depth, length, ("asphalt", "asphalt", "concrete", "meadow"))
    )
    streets = (np.arange(depth)[:, None] % block_v < street) | (np.arange(length) % block_u < street)
    sheet.stand(streets, any_of(rng, "asphalt"), 0)
    trees = fractal(rng, depth, length, 8, 4, 0.6) > PEAK // 4
    for v in range(street, depth, block_v):
        for u in range(street, length, block_u):
            kind = rng.integers(4)
            roof = any_of(rng, "grey_roof", "grey_roof", "red_roof", "concrete")
            wide, deep = block_u - street - 4, block_v - street - 4
            if kind == 0:  # slabs, one behind the other
                for row in range(2, deep - 6, 14):
                    sheet.build(v + row, u + 2, 8, wide, roof, int(rng.integers(6, 12)))
            elif kind == 1:  # towers
                for row in range(2, deep - 9, 18):
                    for col in range(2, wide - 9, 18):
                        sheet.build(v + row, u + col, 11, 11, roof, int(rng.integers(9, 16)))
            elif kind == 2:  # row houses
                for row in range(2, deep - 7, 12):
                    for col in range(2, wide - 8, 10):
                        sheet.build(v + row, u + col, 8, 9, roof, 4, "gable")
            else:  # one hall: a school, a market
                sheet.build(v + 3, u + 3, deep * 2 // 3, wide * 2 // 3, any_of(rng, "white_roof", "grey_roof"), 5)
    sheet.stand(trees & ~streets, any_of(rng, "tree"), 4)
    return sheet


def industry(rng: np.random.Generator, depth: int, length: int) -> Sheet:
    """Large ribbed roofs on concrete, with storage between them."""
    floor = _plots(rng, depth, length, ("concrete", "concrete", "concrete", "asphalt"))
    sheet = Sheet(np.ones((depth, length), bool), floor)
    metal = [any_of(rng, "blue_roof", "blue_roof", "white_roof", "white_roof", "grey_roof") for _ in range(3)]
    v = int(rng.integers(2, 6))
    while v < depth - 8:
        hall_depth = min(int(rng.integers(12, 30)), depth - 2 - v)
        u = int(rng.integers(2, 6))
        while u < length - 8:
            hall_length = min(int(rng.integers(14, 56)), length - 2 - u)
            sheet.build(v, u, hall_depth, hall_length, metal[rng.integers(3)], int(rng.integers(3, 7)), "ribs")
            u += hall_length + int(rng.integers(4, 12))
        v += hall_depth + int(rng.integers(6, 12))
    heaps = fractal(rng, depth, length, 8, 2, 0.7) > PEAK // 3
    sheet.stand(heaps, any_of(rng, "blue_roof", "white_roof", "gravel"), 2)
    return sheet


def site(rng: np.random.Generator, depth: int, length: int) -> Sheet:
    """Construction: churned soil, slabs and wall lines of concrete on a grid, heaps, half a building."""
    sheet = Sheet(_trimmed(rng, depth, length), _plots(rng, depth, length, ("soil", "gravel", "gravel", "concrete")))
    step = int(rng.integers(18, 28))
    wall = any_of(rng, "concrete", "white_roof")
    for v in range(3, depth, step):
        for u in range(3, length, step + 6):
            size_v, size_u = step - 6, step
            kind = rng.integers(4)
            if kind == 0:
                sheet.build(v, u, size_v, size_u, any_of(rng, "concrete", "gravel"), 0)
            elif kind < 3:  # foundations: wall lines around rooms of soil
                for room in range(0, size_u - 6, 7):
                    for edge_v, edge_u, deep, wide in ((0, room, size_v, 2), (0, room, 2, 9), (size_v - 2, room, 2, 9)):
                        sheet.build(v + edge_v, u + edge_u, deep, wide, wall, 2)
    sheet.stand(fractal(rng, depth, length, 8, 2, 0.7) > PEAK // 3, any_of(rng, "white_roof", "blue_roof", "gravel"), 2)
    return sheet


def _patches(rng: np.random.Generator, depth: int, length: int, materials: tuple[str, ...]) -> np.ndarray:
    """(depth, length) uint8: ground of several materials in patches of about ten pixels."""
    palette = np.array([any_of(rng, name) for name in materials], np.uint8)
    height = fractal(rng, depth, length, 16, 4, 0.5) + PEAK // 3
    return palette[np.clip(height * len(palette) * 3 // (2 * PEAK), 0, len(palette) - 1)]


def _plots(rng: np.random.Generator, depth: int, length: int, materials: tuple[str, ...]) -> np.ndarray:
    """(depth, length) uint8: ground of several materials in rectangles, as between the walls of a town."""
    palette = np.array([any_of(rng, name) for name in materials], np.uint8)
    rows = np.repeat(np.arange(depth), rng.integers(8, 30, depth))[:depth]
    cols = np.repeat(np.arange(length), rng.integers(8, 30, length))[:length]
    return palette[rng.integers(0, len(palette), (depth, length))[rows[:, None], cols]]


def _trimmed(rng: np.random.Generator, depth: int, length: int) -> np.ndarray:
    """(depth, length) bool: a rectangle with one or two corners cut off in steps, as parcels are."""
    inside = np.ones((depth, length), bool)
    for _ in range(2):
        rows, cols = int(rng.integers(0, depth // 4 + 1)), int(rng.integers(0, length // 4 + 1))
        top, left = rng.random(2) < 0.5
        corner_v = slice(0, rows) if top else slice(depth - rows, None)
        corner_u = slice(0, cols) if left else slice(length - cols, None)
        inside[corner_v, corner_u] = False
    return inside
