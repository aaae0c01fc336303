"""One scene from a seed and a number: first the land, then what people built on it, then the picture of both."""

import numpy as np

from config.data import LANDSCAPE_CLASSES
from folds.scenery import buildings
from folds.scenery.canvas import (
    BARELAND,
    CONSTRUCTION,
    FLAT,
    FOREST,
    GRASS,
    INDUSTRIAL,
    ROAD,
    RURAL,
    URBAN,
    WATER,
    Canvas,
    target_shares,
)
from folds.scenery.noise import canopy, fractal
from folds.scenery.places import build_roads, scatter_trees, settle, spread
from folds.scenery.spectra import Sensor, render
from folds.scenery.terrain import draw_rivers, find_lowland, lay_fields, plan_rivers, plant_forest

SPLITS = ("train", "test")


def draw_scene(
    seed: int, split: str, number: int, size: int, floor: float, shift: float
) -> tuple[np.ndarray, np.ndarray]:
    """One scene; it depends on nothing but the arguments.

    Args:
        split: train or test; they count their scenes from 0 and share none.
        size: width and height in pixels.
        floor: least average share of a class, see `target_shares`.
        shift: how far the test flights lie from the train flights, see `Sensor.draw`.

    Returns:
        (size, size, 4) uint8 R, G, B, NIR and (size, size) uint8 positions in LANDSCAPE_CLASSES.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    want_C = _scene_shares(seed, split, number, floor) * size * size
    canvas = Canvas(*(np.full((size, size), fill, np.uint8) for fill in (FOREST, 0, 6, FLAT)))
    hills_HW = fractal(rng, size, size, 512, 16, 0.5)
    crowns_HW = canopy(rng, size, size)

    rivers = plan_rivers(rng, size, want_C[WATER])
    lowland_HW = find_lowland(rivers, hills_HW, want_C)
    plant_forest(rng, canvas)
    lay_fields(rng, canvas, lowland_HW, crowns_HW)
    draw_rivers(rng, canvas, rivers, grass=want_C[GRASS] / 2)

    roads = build_roads(rng, canvas, want_C[ROAD])
    settle(rng, canvas, URBAN, want_C[URBAN], roads, buildings.town, sides=(70, 170), offset=0.35)
    settle(rng, canvas, INDUSTRIAL, want_C[INDUSTRIAL], roads, buildings.industry, sides=(50, 120), offset=0.6)
    settle(rng, canvas, CONSTRUCTION, want_C[CONSTRUCTION], roads, buildings.site, sides=(40, 90), offset=0.6)
    settle(rng, canvas, RURAL, want_C[RURAL], roads, buildings.village, sides=(50, 130), offset=0.3)
    spread(rng, canvas, WATER, want_C[WATER], ("water", "turbid_water"), sides=(24, 90))
    spread(rng, canvas, BARELAND, want_C[BARELAND], ("soil", "soil", "gravel"), sides=(18, 60), specks="dry_grass")
    spread(rng, canvas, GRASS, want_C[GRASS], ("meadow", "meadow", "dry_grass"), sides=(30, 110), specks="balk")
    scatter_trees(rng, canvas, crowns_HW)

    sensor = Sensor.draw(rng, shift if split == "test" else 0.0)
    image_HWB = render(rng, canvas, hills_HW, crowns_HW, sensor)
    return image_HWB, canvas.index_HW


def _scene_shares(seed: int, split: str, number: int, floor: float) -> np.ndarray:
    """(C,) share of each class wanted in one scene: 0.4 to 1.6 times the average.

    The factors of successive scenes are spread evenly (steps of an irrational number, modulo 1) rather than drawn, so
    that a handful of scenes already has about the right shares, although each knows nothing of the others.
    """
    start_C = np.random.default_rng([seed, SPLITS.index(split)]).random(len(LANDSCAPE_CLASSES))
    step_C = np.sqrt([2, 3, 5, 7, 11, 13, 17, 19, 23, 29])
    return target_shares(floor) * (0.4 + 1.2 * ((start_C + number * step_C) % 1))
