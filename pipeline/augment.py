"""Augmentation by name: image and mask together, any band count, uint8, uint16 or float32.

A tile comes out the same for the same seed, whatever was augmented before: every transform draws from generators that
are made from the seed. Steps run in the order of the YAML. The names and their arguments are listed in
`config/augmentations.py`; what is albumentations' takes albumentations' arguments and, but for the defaults below, has
its defaults.
"""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no request to the network at import

import albumentations as A  # noqa: N812
import cv2
import numpy as np

from base.errors import UserError
from config.augmentations import Augmentation
from config.data import IGNORE_INDEX
from pipeline.pixels import PixelScale, stretched

# One thread: a forked loader worker would wait for ever for OpenCV's pool, and the cores are the network's.
cv2.setNumThreads(0)

Tile = tuple[np.ndarray, np.ndarray]  # image (H, W, B), mask (H, W) uint8 indices
Partner = Callable[[np.random.Generator, int | None], Tile | None]
"""A random training tile; with a class index, one that holds the class, or None where no tile does."""

# Where albumentations' default changes nothing, or far too much for an aerial tile.
DEFAULTS: dict[str, dict[str, Any]] = {
    "shift_scale_rotate": {"scale": (0.9, 1.1), "translate_percent": (-0.0625, 0.0625), "rotate": (-45, 45)},
    "random_resized_crop": {"scale": (0.5, 1.0)},
    "noise": {"std_range": (0.01, 0.05)},
}


class Sample(NamedTuple):
    image: np.ndarray
    """(H, W, B) in the pack's dtype."""
    mask: np.ndarray
    """(H, W) uint8 indices; 255: ignored."""
    second: np.ndarray
    """The other mask of a mixed tile; the same array where nothing was mixed."""
    share: float
    """Share of the first mask in the loss."""


@dataclass
class Draw:
    """What a step may draw from."""

    rng: np.random.Generator
    py_rng: random.Random
    partner: Partner


Step = Callable[[Sample, Draw], Sample]


class Augment:
    """All steps of a training section."""

    def __init__(self, steps: list[tuple[float, Step]]) -> None:
        """
        Args:
            steps: probability and step, in order.
        """
        self.steps = steps

    def __call__(self, tile: Tile, seed: int, partner: Partner) -> Sample:
        """The augmented tile: a function of the tile, the seed and the partners alone; its arrays are contiguous."""
        sample = Sample(tile[0], tile[1], tile[1], 1.0)
        draw = Draw(np.random.default_rng(seed), random.Random(seed), partner)
        for p, step in self.steps:
            if p >= 1 or draw.rng.random() < p:
                sample = step(sample, draw)
        return sample._replace(image=np.ascontiguousarray(sample.image), mask=np.ascontiguousarray(sample.mask),
                               second=np.ascontiguousarray(sample.second))  # fmt: skip


def build_augment(
    augmentations: Sequence[Augmentation],
    names: Sequence[str],
    scale: PixelScale,
) -> Augment:
    """The augmentations of a training section.

    Args:
        names: the classes in index order, for copy_paste.
        scale: the pack's. Gains and noise are relative to it, and what has no data is left alone by them.

    Raises:
        UserError: an argument's value that the augmentation does not take.
    """
    steps = []
    for augmentation in augmentations:
        arguments = DEFAULTS.get(augmentation.name, {}) | _with_tuples(augmentation.params)
        if "translate_px" in augmentation.params and "translate_percent" not in augmentation.params:
            del arguments["translate_percent"]  # albumentations takes one of the two
        try:
            step = BUILDERS[augmentation.name](arguments, names=names, scale=scale)
        except (ValueError, TypeError) as error:
            raise UserError(f"train.augment: {augmentation.name} with {augmentation.params}: {error}") from None
        if augmentation.name in RADIOMETRIC:
            step = _where_data(step, scale)
        steps.append((augmentation.p, step))
    return Augment(steps)


def _where_data(step: Step, scale: PixelScale) -> Step:
    """The step, but for pixels without data: a network sees 0 there, whatever the sensor did."""

    def kept(sample: Sample, draw: Draw) -> Sample:
        empty_HW = scale.without_data(sample.image)
        changed = step(sample, draw)
        if empty_HW is None:
            return changed
        return changed._replace(image=np.where(empty_HW[..., None], sample.image, changed.image))

    return step if scale.empty_B is None else kept


def _with_tuples(params: dict[str, Any]) -> dict[str, Any]:
    # YAML has lists where albumentations wants pairs.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}


# --- The square's symmetries. Bit 0: flip columns, bit 1: flip rows, bit 2: transpose first.

SYMMETRIES = {"d4": range(8), "hflip": [1], "vflip": [2], "rotate90": [0, 3, 5, 6], "transpose": [4]}


def turned(array: np.ndarray, code: int) -> np.ndarray:
    """One of the eight symmetries of an array whose first two axes are rows and columns; a view."""
    if code & 4:
        array = array.swapaxes(0, 1)
    return array[:: -1 if code & 2 else 1, :: -1 if code & 1 else 1]


def _symmetry(codes: Sequence[int], arguments: dict[str, Any], **_: Any) -> Step:
    def step(sample: Sample, draw: Draw) -> Sample:
        square = sample.mask.shape[0] == sample.mask.shape[1]
        possible = codes if square else [code for code in codes if code < 4]  # tiles of a batch keep one shape
        if not possible:
            return sample
        code = possible[draw.rng.integers(len(possible))]
        return _with_masks(sample, turned(sample.image, code), turned(sample.mask, code))

    return step


# --- albumentations


def _geometry(kind: type[A.DualTransform], arguments: dict[str, Any], scale: PixelScale, **_: Any) -> Step:
    # The bands' means: black would be an edge, and for floats perhaps no value at all. OpenCV fills four bands at most.
    fill = scale.mean_B.tolist() if len(scale.mean_B) <= 4 else [scale.mean_B.mean()]
    arguments = {"fill": tuple(fill) if len(fill) > 1 else fill[0]} | arguments
    return _both(kind(**arguments, fill_mask=IGNORE_INDEX, p=1.0))


def _crop(arguments: dict[str, Any], **_: Any) -> Step:
    @lru_cache
    def crop_to(size_px: tuple[int, int]) -> Step:
        return _both(A.RandomResizedCrop(size=size_px, **arguments, p=1.0))

    crop_to((32, 32))  # a wrong argument is found now, not with the first tile
    return lambda sample, draw: crop_to(sample.mask.shape)(sample, draw)


def _dropout(arguments: dict[str, Any], scale: PixelScale, **_: Any) -> Step:
    return _both(A.CoarseDropout(**{"fill": tuple(scale.mean_B.tolist())} | arguments, p=1.0))


def _both(transform: A.DualTransform) -> Step:
    def step(sample: Sample, draw: Draw) -> Sample:
        transform.set_random_state(draw.rng, draw.py_rng)
        out = transform(image=np.ascontiguousarray(sample.image), mask=np.ascontiguousarray(sample.mask))
        return _with_masks(sample, out["image"], out["mask"])

    return step


def _radiometry(kind: type[A.ImageOnlyTransform], arguments: dict[str, Any], scale: PixelScale, **_: Any) -> Step:
    """albumentations clips floats to 0..1, even to blur them; other pixels than uint8 are brought there and back."""
    transform = kind(**arguments, p=1.0)

    def step(sample: Sample, draw: Draw) -> Sample:
        transform.set_random_state(draw.rng, draw.py_rng)
        image = np.ascontiguousarray(sample.image)
        if image.dtype == np.uint8:
            return sample._replace(image=transform(image=image)["image"])
        unit, beyond = scale.to_unit(image)
        return sample._replace(image=scale.from_unit(transform(image=unit)["image"], beyond))

    return step


# --- Our own


def _band_gain(arguments: dict[str, Any], scale: PixelScale, **_: Any) -> Step:
    """Each band times 1 +- gain, plus +- offset of its standard deviation: another sensor, another hour."""
    gain, offset = _number(arguments, "gain", 0.1), _number(arguments, "offset", 0.0)

    def step(sample: Sample, draw: Draw) -> Sample:
        factor_B = 1 + draw.rng.uniform(-gain, gain, sample.image.shape[-1])
        shift_B = draw.rng.uniform(-offset, offset, sample.image.shape[-1]) * scale.std_B
        return sample._replace(image=scale.linear(sample.image, factor_B, shift_B))

    return step


def _percent_stretch(arguments: dict[str, Any], scale: PixelScale, **_: Any) -> Step:
    low, high = arguments.get("percent", (0.0, 2.0))
    if not 0 <= low <= high < 50:
        raise ValueError("percent is a pair 0 <= low <= high < 50")

    def step(sample: Sample, draw: Draw) -> Sample:
        return sample._replace(image=stretched(sample.image, draw.rng.uniform(low, high), scale))

    return step


def _copy_paste(arguments: dict[str, Any], names: Sequence[str], **_: Any) -> Step:
    """The pixels of one of some classes from another tile, turned, laid over this one (Ghiasi et al. 2021)."""
    indices = [list(names).index(name) for name in arguments["classes"]]

    def step(sample: Sample, draw: Draw) -> Sample:
        index = indices[draw.rng.integers(len(indices))]
        other = draw.partner(draw.rng, index)
        if other is None:
            return sample
        code = draw.rng.integers(8 if sample.mask.shape[0] == sample.mask.shape[1] else 4)
        image, mask = turned(other[0], code), turned(other[1], code)
        pasted = mask == index
        return _with_masks(
            sample, np.where(pasted[..., None], image, sample.image), np.where(pasted, mask, sample.mask)
        )

    return step


def _cutmix(arguments: dict[str, Any], **_: Any) -> Step:
    """A box of another tile, image and mask; its area is 1 - lambda, lambda ~ Beta(alpha, alpha) (Yun et al. 2019)."""
    alpha = _number(arguments, "alpha", 1.0, above=0)

    def step(sample: Sample, draw: Draw) -> Sample:
        image, mask = draw.partner(draw.rng, None)
        side = np.sqrt(1 - draw.rng.beta(alpha, alpha))
        rows, columns = (_span(size, side, draw.rng) for size in mask.shape)
        mixed_image, mixed_mask = sample.image.copy(), sample.mask.copy()
        mixed_image[rows, columns], mixed_mask[rows, columns] = image[rows, columns], mask[rows, columns]
        return _with_masks(sample, mixed_image, mixed_mask)

    return step


def _span(size: int, share: float, rng: np.random.Generator) -> slice:
    """A random stretch of an axis, inside it."""
    length = round(size * share)
    first = int(rng.integers(size - length + 1))
    return slice(first, first + length)


def _mixup(arguments: dict[str, Any], **_: Any) -> Step:
    """lambda of this image and 1 - lambda of another, and both masks for the loss (Zhang et al. 2018)."""
    alpha = _number(arguments, "alpha", 0.2, above=0)

    def step(sample: Sample, draw: Draw) -> Sample:
        image, mask = draw.partner(draw.rng, None)
        share = draw.rng.beta(alpha, alpha)
        mixed = cv2.addWeighted(np.ascontiguousarray(sample.image), share, image, 1 - share, 0.0)
        return Sample(mixed.reshape(image.shape), sample.mask, mask, float(share))

    return step


def _with_masks(sample: Sample, image: np.ndarray, mask: np.ndarray) -> Sample:
    # Every step but mixup changes the one mask there is; mixup comes last.
    return Sample(image, mask, mask, sample.share)


def _number(arguments: dict[str, Any], key: str, default: float, above: float = -1e-12) -> float:
    value = arguments.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > above:
        raise ValueError(f"{key} is {value!r}; expected a number {'above 0' if above == 0 else 'of 0 or more'}")
    return float(value)


RADIOMETRIC = {"brightness_contrast", "gamma", "noise", "blur", "band_gain", "percent_stretch"}
BUILDERS: dict[str, Callable[..., Step]] = {
    **{name: partial(_symmetry, list(codes)) for name, codes in SYMMETRIES.items()},
    "shift_scale_rotate": partial(_geometry, A.Affine),
    "grid_distortion": partial(_geometry, A.GridDistortion),
    "random_resized_crop": _crop,
    "coarse_dropout": _dropout,
    "brightness_contrast": partial(_radiometry, A.RandomBrightnessContrast),
    "gamma": partial(_radiometry, A.RandomGamma),
    "noise": partial(_radiometry, A.GaussNoise),
    "blur": partial(_radiometry, A.GaussianBlur),
    "band_gain": _band_gain,
    "percent_stretch": _percent_stretch,
    "copy_paste": _copy_paste,
    "cutmix": _cutmix,
    "mixup": _mixup,
}
