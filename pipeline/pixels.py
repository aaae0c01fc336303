"""Arithmetic on pixels of any dtype: to the unit range and back, per band and linear, stretched by percentiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from folds.images import full_scale

SPREAD = 4.0  # standard deviations around the mean that are the unit range of other dtypes than uint8

STD_FLOOR = 1e-6  # of the mean: a band's spread below that is rounding, of which float32 has 6e-8 a pixel


def fill_value(mean_B: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(B,) what stands where an image has no data: the mean of the train tiles, which a network sees as 0."""
    value_B = np.asarray(mean_B) * full_scale(dtype)
    return (np.rint(value_B) if np.issubdtype(dtype, np.integer) else value_B).astype(dtype)


def has_spread(mean: Any, std: Any) -> Any:
    """Whether bands vary at all, whatever their unit: arrays or tensors of one shape -> bool.

    To divide a dead band by its std would make it noise, or NaN.
    """
    return std > STD_FLOOR * abs(mean)


@dataclass(frozen=True)
class PixelScale:
    """The range in which a data set's pixels lie, in their own unit.

    uint8 fills its range. uint16 seldom does (12 bits, reflectance x 10,000), and floats have none: there it is the
    mean +- 4 standard deviations of each band, so that "10 % brighter" means the same for every sensor.
    """

    dtype: np.dtype
    mean_B: np.ndarray
    std_B: np.ndarray
    low_B: np.ndarray
    high_B: np.ndarray
    empty_B: np.ndarray | None = None
    """What stands where images have no data; None: they have some everywhere."""

    @classmethod
    def of(
        cls, dtype: np.dtype, mean_B: np.ndarray, std_B: np.ndarray, empty: Sequence[float] | None = None
    ) -> "PixelScale":
        """
        Args:
            mean_B, std_B: with integer dtypes scaled to 0..1.
            empty: in the pixels' own unit.
        """
        empty_B = None if empty is None else np.asarray(empty, dtype)
        full = full_scale(dtype)
        mean_B, std_B = np.asarray(mean_B, np.float64) * full, np.asarray(std_B, np.float64) * full
        if dtype == np.uint8:
            return cls(dtype, mean_B, std_B, np.zeros(len(mean_B)), np.full(len(mean_B), full), empty_B)
        low_B, high_B = mean_B - SPREAD * std_B, mean_B + SPREAD * std_B  # the pack's std is never 0
        if dtype.kind == "u":
            low_B, high_B = np.maximum(low_B, 0), np.minimum(high_B, full)
        return cls(dtype, mean_B, std_B, low_B, high_B, empty_B)

    def without_data(self, image_HWB: np.ndarray) -> np.ndarray | None:
        """(H, W) bool; None where all pixels have data."""
        if self.empty_B is None:
            return None
        empty_HW = (image_HWB == self.empty_B).all(2)
        return empty_HW if empty_HW.any() else None

    def to_unit(self, image_HWB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 in 0..1, and what of each pixel lies beyond the range, for `from_unit`."""
        low_B, width_B = self.low_B.astype(np.float32), (self.high_B - self.low_B).astype(np.float32)
        unit = (image_HWB.astype(np.float32) - low_B) / width_B
        inside = np.clip(unit, 0, 1)
        return inside, unit - inside

    def from_unit(self, unit_HWB: np.ndarray, beyond_HWB: np.ndarray) -> np.ndarray:
        """Back to the data's unit and dtype."""
        low_B, width_B = self.low_B.astype(np.float32), (self.high_B - self.low_B).astype(np.float32)
        return self.cast((unit_HWB + beyond_HWB) * width_B + low_B)

    def linear(self, image_HWB: np.ndarray, factor_B: np.ndarray, shift_B: np.ndarray) -> np.ndarray:
        """factor x pixel + shift per band, rounded and held in the dtype's range."""
        if self.dtype == np.uint8:
            # 256 values a band: a table is seven times faster than floats
            table_1NB = self.cast(np.arange(256)[:, None] * factor_B + shift_B)[None]
            return cv2.LUT(np.ascontiguousarray(image_HWB), table_1NB).reshape(image_HWB.shape)
        return self.cast(image_HWB.astype(np.float32) * factor_B.astype(np.float32) + shift_B.astype(np.float32))

    def cast(self, values: np.ndarray) -> np.ndarray:
        """Floats -> the data's dtype: integers are rounded and clipped, never wrapped."""
        if self.dtype.kind == "u":
            return np.clip(np.rint(values), 0, np.iinfo(self.dtype).max).astype(self.dtype)
        return values.astype(self.dtype)


def stretched(image_HWB: np.ndarray, percent: float, scale: PixelScale) -> np.ndarray:
    """Each band stretched linearly so that its `percent`-th and (100 - percent)-th percentile span the data's range.

    After WangZhenqing (2021 Tianchi remote sensing). A band of one value stays as it is, and so do pixels without data,
    which count in no percentile.
    """
    empty_HW = scale.without_data(image_HWB)
    if empty_HW is not None and empty_HW.all():
        return image_HWB
    pixels_PB = image_HWB.reshape(-1, image_HWB.shape[2]) if empty_HW is None else image_HWB[~empty_HW]
    bounds_2B = np.percentile(pixels_PB, [percent, 100 - percent], axis=0)
    width_B = bounds_2B[1] - bounds_2B[0]
    factor_B = np.where(width_B > 0, (scale.high_B - scale.low_B) / np.where(width_B > 0, width_B, 1), 1.0)
    shift_B = np.where(width_B > 0, scale.low_B - bounds_2B[0] * factor_B, 0.0)
    image = scale.linear(image_HWB, factor_B, shift_B)
    if scale.dtype.kind == "f":
        image = np.clip(image, scale.low_B, scale.high_B).astype(scale.dtype)
    if empty_HW is not None:
        image[empty_HW] = scale.empty_B
    return image
