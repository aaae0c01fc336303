"""How a sensor sees a landscape: spectra of materials, their textures, light and shadow, blur, gain and noise."""

from dataclasses import dataclass
from itertools import accumulate

import cv2
import numpy as np

from folds.scenery.canvas import Canvas
from folds.scenery.noise import PEAK, fractal

BANDS = ("red", "green", "blue", "nir")


@dataclass(frozen=True)
class Material:
    """What the surface is made of. A class holds several materials, and most materials occur in several classes."""

    spectrum: tuple[float, float, float, float]
    """Mean of R, G, B, NIR as a share of the sensor's range."""
    variants: int = 1
    """Spectra drawn around the mean in each scene; a field, a roof, a pond has one of them."""
    spread: float = 0.08
    """Largest relative difference of a variant's brightness from the mean; half as much again in each band."""
    grain: float = 0.05
    """Contrast of pixel-to-pixel texture."""
    crown: float = 0.0
    """Contrast of tree crowns lit from one side, 4 to 8 pixels wide."""
    mottle: float = 0.04
    """Contrast of patches tens of pixels wide: damp, dry, worn."""
    rows: float = 0.3
    """Contrast of the tone map: furrows and drilled rows of fields, ribs and slopes of roofs."""
    relief: float = 0.03
    """Contrast of lit and shaded slopes of the hills."""


# Forest as in the competition's band means (.12 .13 .11 of the visible bands, .53 of NIR: it is three quarters of the
# pixels). Grass lies between green and dry crops, soil within what is ploughed, roofs within each other's range.
MATERIALS = {
    "conifers": Material((0.085, 0.105, 0.095, 0.47), 3, 0.10, 0.14, 0.34, 0.05, 0.0, 0.16),
    "broadleaf": Material((0.095, 0.128, 0.098, 0.60), 4, 0.10, 0.14, 0.30, 0.05, 0.0, 0.16),
    "young_trees": Material((0.110, 0.145, 0.102, 0.57), 3, 0.10, 0.10, 0.20, 0.08, 0.22, 0.12),
    "tree": Material((0.095, 0.125, 0.095, 0.57), 4, 0.12, 0.10, 0.30, 0.05, 0.0),
    "green_crop": Material((0.115, 0.160, 0.108, 0.66), 8, 0.14, 0.04, 0.0, 0.06, 0.10),
    "ripe_crop": Material((0.225, 0.205, 0.130, 0.460), 8, 0.16, 0.04, 0.0, 0.07, 0.10),
    "stubble": Material((0.235, 0.210, 0.165, 0.370), 6, 0.14, 0.05, 0.0, 0.08, 0.14),
    "ploughed": Material((0.210, 0.170, 0.135, 0.270), 8, 0.18, 0.06, 0.0, 0.10, 0.14),
    "paddy": Material((0.120, 0.145, 0.118, 0.38), 4, 0.18, 0.04, 0.0, 0.10, 0.06),
    "balk": Material((0.170, 0.180, 0.130, 0.48), 3, 0.12, 0.10),
    "meadow": Material((0.150, 0.190, 0.118, 0.640), 6, 0.15, 0.10, 0.05, 0.14, 0.0),
    "dry_grass": Material((0.195, 0.205, 0.140, 0.530), 4, 0.14, 0.10, 0.04, 0.16, 0.0),
    "soil": Material((0.290, 0.230, 0.170, 0.330), 8, 0.18, 0.09, 0.0, 0.14, 0.14),
    "gravel": Material((0.300, 0.275, 0.235, 0.350), 4, 0.14, 0.12, 0.0, 0.12),
    "track": Material((0.270, 0.240, 0.190, 0.37), 3, 0.12, 0.08),
    "asphalt": Material((0.185, 0.190, 0.190, 0.21), 4, 0.14, 0.05, 0.0, 0.06, 0.20),
    "concrete": Material((0.275, 0.270, 0.260, 0.280), 6, 0.18, 0.05, 0.0, 0.08, 0.20),
    "red_roof": Material((0.270, 0.170, 0.135, 0.31), 4, 0.16, 0.06, 0.0, 0.05, 0.40),
    "grey_roof": Material((0.230, 0.230, 0.230, 0.26), 6, 0.20, 0.06, 0.0, 0.05, 0.40),
    "white_roof": Material((0.430, 0.430, 0.420, 0.430), 5, 0.18, 0.03, 0.0, 0.04, 0.25),
    "blue_roof": Material((0.165, 0.260, 0.380, 0.36), 4, 0.14, 0.04, 0.0, 0.04, 0.25),
    "water": Material((0.060, 0.085, 0.085, 0.045), 4, 0.30, 0.05, 0.0, 0.08, 0.0, 0.0),
    "turbid_water": Material((0.150, 0.160, 0.120, 0.095), 4, 0.20, 0.04, 0.0, 0.08, 0.0, 0.0),
}
_FIRST = accumulate((material.variants for material in MATERIALS.values()), initial=0)
NUMBER = dict(zip(MATERIALS, _FIRST, strict=False))
"""Material -> the number of its first variant in a material map."""


def any_of(rng: np.random.Generator, *names: str) -> int:
    """A variant's number for a material map: one of the materials, then one of its variants."""
    name = names[rng.integers(len(names))]
    return NUMBER[name] + int(rng.integers(MATERIALS[name].variants))


@dataclass(frozen=True)
class Sensor:
    """What one flight does to all pixels of its scene: value = gain * light + haze, per band."""

    gain: tuple[float, float, float, float]
    haze: tuple[float, float, float, float]
    """As a share of the sensor's range."""

    @classmethod
    def draw(cls, rng: np.random.Generator, shift: float) -> "Sensor":
        """A flight of the train set (shift 0), or one that lies `shift` times the built-in step away from it.

        The step: a hazier, lower sun (visible bands raised, blue most; NIR lowered) and a spread 1.7 times as wide.
        """
        spread = rng.uniform(-1, 1, 4) * 0.05 + rng.uniform(-1, 1) * 0.06
        gain = 1 + spread * (1 + 0.7 * shift) + shift * np.array([0.03, 0.01, -0.01, -0.06])
        haze = rng.uniform(0, 0.012) * np.array([0.6, 0.8, 1.2, 0.3]) + shift * np.array([0.005, 0.008, 0.014, 0.0])
        return cls(tuple(np.maximum(gain, 0.3).tolist()), tuple(haze.tolist()))


def render(
    rng: np.random.Generator, canvas: Canvas, hills_HW: np.ndarray, crowns_HW: np.ndarray, sensor: Sensor
) -> np.ndarray:
    """(H, W, 4) uint8 image of a landscape.

    Args:
        hills_HW: int16 height of the ground, for lit and shaded slopes.
        crowns_HW: int16 surface of the trees, see `canopy`.
    """
    sun = ((1, 1), (1, 2), (2, 1), (1, -1))[rng.integers(4)]  # where shadows fall: rows down, columns right
    material_HW, shape = canvas.material_HW, canvas.material_HW.shape
    table = _variant_spectra(rng)

    light_HW = np.ones(shape, np.float32)
    light_HW += _contrast(material_HW, "grain", 1 / 128) * (rng.integers(-128, 128, shape, np.int8))
    # Crowns are bright at the top and dark in the gaps, and a little brighter on the side of the sun.
    light_HW += _contrast(material_HW, "crown", 1 / 24) * (crowns_HW - 20 + 2 * _slope(crowns_HW, sun, 1))
    light_HW += _contrast(material_HW, "relief", 1 / 600) * np.clip(_slope(hills_HW, sun, 4), -900, 900)
    light_HW += _contrast(material_HW, "rows", 1 / 128) * (canvas.tone_HW.view(np.int8) ^ np.int8(-128))
    light_HW += _contrast(material_HW, "mottle", 3 / PEAK) * fractal(rng, *shape, 64, 8, 0.6)
    np.maximum(light_HW, 0.25, out=light_HW)
    light_HW[shadows(canvas.height_HW, sun)] *= np.float32(0.5)

    # Vegetation is nowhere equally vigorous: NIR rises where red falls, over hundreds of pixels.
    vigour_HW = fractal(rng, *shape, 256, 64, 0.5)
    image_HWB = np.empty((*shape, len(BANDS)), np.uint8)
    for band, vigour in enumerate((-0.10, 0.0, -0.05, 0.12)):
        value_HW = cv2.LUT(material_HW, (table[:, band] * np.float32(65536)).astype(np.float32))
        value_HW *= light_HW
        value_HW *= np.float32(sensor.gain[band]) + vigour_HW * np.float32(vigour * sensor.gain[band] / PEAK)
        value_HW += np.float32(sensor.haze[band] * 65536)
        value_HW += rng.integers(-128, 128, shape, np.int8) * np.float32(6.0)  # this band's own texture
        exact_HW = np.clip(value_HW, 0, 65535).astype(np.uint16)
        # Optics smear neighbouring pixels before the sensor counts: noise is correlated over 1 to 3 pixels, edges are
        # mixed pixels. On integers, because cv2's float blur rounds differently from processor to processor.
        blurred_HW = cv2.GaussianBlur(exact_HW, (5, 5), 0.75)
        counted_HW = blurred_HW + rng.integers(0, 256, shape, np.uint8).astype(np.uint32) * 2  # read-out noise
        image_HWB[..., band] = np.minimum(counted_HW >> 8, 255)
    return image_HWB


def shadows(height_HW: np.ndarray, sun: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels from which something higher hides a sun that stands 45 degrees over the direction `sun`."""
    shaded = np.zeros(height_HW.shape, bool)
    height, width = height_HW.shape
    reach = int(height_HW.max())
    for step in range(1, reach + 1):
        # A direction such as (1, 2) is walked one pixel down for every two to the right.
        dy, dx = (round(step * part / max(abs(sun[0]), abs(sun[1]))) for part in sun)
        here = slice(dy, height), slice(max(dx, 0), width + min(dx, 0))
        there = slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0))
        shaded[here] |= height_HW[there] > height_HW[here] + np.uint8(step)
    return shaded


def _variant_spectra(rng: np.random.Generator) -> np.ndarray:
    """(256, 4) float64: the spectrum of every material number in this scene."""
    table = np.zeros((256, len(BANDS)))
    for name, material in MATERIALS.items():
        shape = (material.variants, 1)
        brightness = 1 + material.spread * rng.uniform(-1, 1, shape)
        colour = 1 + material.spread / 2 * rng.uniform(-1, 1, (material.variants, len(BANDS)))
        table[NUMBER[name] : NUMBER[name] + material.variants] = material.spectrum * brightness * colour
    return table


def _contrast(material_HW: np.ndarray, texture: str, unit: float) -> np.ndarray:
    """(H, W) float32: how strongly each pixel's material shows one texture."""
    lut = np.zeros(256, np.float32)
    for name, material in MATERIALS.items():
        lut[NUMBER[name] : NUMBER[name] + material.variants] = getattr(material, texture) * unit
    return cv2.LUT(material_HW, lut)


def _slope(field_HW: np.ndarray, sun: tuple[int, int], px: int) -> np.ndarray:
    """(H, W) int16: rise of a field towards the sun's shadow side over `px` pixels; 0 at the scene's rim."""
    slope_HW = np.zeros_like(field_HW)
    dy, dx = px, px if sun[1] > 0 else -px
    here = slice(dy, None), slice(max(dx, 0), field_HW.shape[1] + min(dx, 0))
    there = slice(0, -dy), slice(max(-dx, 0), field_HW.shape[1] - max(dx, 0))
    slope_HW[here] = field_HW[here] - field_HW[there]
    return slope_HW
