"""Scenes of correlated noise, cut into tiles whose neighbours are known; and scans of tiles that are on no disk."""

from dataclasses import fields

import numpy as np
from scipy.ndimage import gaussian_filter

from folds.scan import Scan, fields_of, fields_without_mask


def draw_texture(rng: np.random.Generator, height: int, width: int, bands: int, dtype: str = "uint8") -> np.ndarray:
    """(H, W, B): structure of three sizes plus pixel noise, as land from above has it."""
    image = np.zeros((height, width, bands))
    for sigma_px, weight in ((1, 0.04), (4, 0.08), (16, 0.12)):
        noise = gaussian_filter(rng.normal(size=(height, width, bands)), (sigma_px, sigma_px, 0), mode="reflect")
        noise -= noise.mean((0, 1))  # scenes differ in structure, not in brightness
        image += weight * noise / noise.std()
    image = 0.45 + image + rng.normal(0, 0.01, image.shape)
    if dtype.startswith("float"):
        return image.astype(dtype)
    return (np.clip(image, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def cut(scene_HWB: np.ndarray, px: int) -> dict[tuple[int, int], np.ndarray]:
    """(row, column) -> tile."""
    rows, columns = scene_HWB.shape[0] // px, scene_HWB.shape[1] // px
    return {
        (r, c): scene_HWB[r * px : (r + 1) * px, c * px : (c + 1) * px] for r in range(rows) for c in range(columns)
    }


def neighbours(place_of: list[tuple]) -> set[tuple[int, int, str]]:
    """The true (a, b, relation) among tiles given by (scene, row, column)."""
    at = {place: n for n, place in enumerate(place_of)}
    pairs = set()
    for (scene, row, column), a in at.items():
        for relation, place in (("right", (scene, row, column + 1)), ("below", (scene, row + 1, column))):
            if place in at:
                pairs.add((a, at[place], relation))
    return pairs


def shuffled_scenes(
    rng: np.random.Generator, scenes: int, rows: int, columns: int, px: int = 24, bands: int = 4, dtype: str = "uint8"
) -> tuple[list[np.ndarray], list[tuple]]:
    """The tiles of several scenes in random order, and where each was cut from."""
    tiles = [
        ((scene, *place), tile)
        for scene in range(scenes)
        for place, tile in cut(draw_texture(rng, rows * px, columns * px, bands, dtype), px).items()
    ]
    order = rng.permutation(len(tiles))
    return [tiles[i][1] for i in order], [tiles[i][0] for i in order]


def scan_of(images: list[np.ndarray], num_classes: int = 2) -> Scan:
    """What `scan_tiles` would keep of these images."""
    rows = [fields_of(image) | fields_without_mask(num_classes) for image in images]
    return Scan(**{field.name: np.stack([row[field.name] for row in rows]) for field in fields(Scan)})
