"""The scene under the brush: which class and which material every pixel has."""

from dataclasses import dataclass

import numpy as np

from config.data import LANDSCAPE_CLASSES

# Pixels of the competition's first round (16,017 tiles of 256 x 256), as counted by
# alexchungio/Intelligent-analysis-of-ecological-assets-competition-2021.
PIXELS = {
    "farmland": 173_067_508,
    "forest": 783_364_798,
    "grass": 6_086_055,
    "road": 17_751_239,
    "urban": 5_458_338,
    "rural": 19_350_932,
    "industrial": 4_600_435,
    "construction": 3_419_876,
    "water": 35_714_475,
    "bareland": 876_456,
}
FLAT = 128  # the tone of a surface without rows, ribs or slopes
# The numbers inside a scene are positions in LANDSCAPE_CLASSES.
FARMLAND, FOREST, GRASS, ROAD, URBAN, RURAL, INDUSTRIAL, CONSTRUCTION, WATER, BARELAND = range(len(LANDSCAPE_CLASSES))


def target_shares(floor: float) -> np.ndarray:
    """(C,) share of pixels that each class gets on average: the competition's, none below `floor`, forest the rest."""
    counts_C = np.array([PIXELS[name] for name in LANDSCAPE_CLASSES], float)
    share_C = np.maximum(counts_C / counts_C.sum(), floor)
    share_C[FOREST] += 1 - share_C.sum()
    return share_C


@dataclass
class Canvas:
    """Arrays of one scene, or views of a part of it."""

    index_HW: np.ndarray
    """uint8, the class: position in LANDSCAPE_CLASSES."""
    material_HW: np.ndarray
    """uint8, a number of `spectra.NUMBER`."""
    height_HW: np.ndarray
    """uint8 pixels above the ground."""
    tone_HW: np.ndarray
    """uint8 brightness of rows and slopes around FLAT."""

    @property
    def size(self) -> int:
        return len(self.index_HW)

    @property
    def free(self) -> np.ndarray:
        """(H, W) bool: fields and forest, on which something may be laid."""
        return self.index_HW <= FOREST

    def part(self, where: tuple[slice, slice]) -> "Canvas":
        """A view: what is painted there is painted here."""
        return Canvas(self.index_HW[where], self.material_HW[where], self.height_HW[where], self.tone_HW[where])

    def paint(self, where: np.ndarray, index: int, material: int | np.ndarray) -> None:
        """Lay flat land of a class; `material` is one number, or one for each pixel of `where`."""
        self.index_HW[where] = index
        self.cover(where, material, 0)

    def cover(self, where: np.ndarray, material: int | np.ndarray, height: int) -> None:
        """Change the picture and leave the map: trees in a field, a clearing in a forest."""
        self.material_HW[where] = material
        self.height_HW[where] = height
        self.tone_HW[where] = FLAT
