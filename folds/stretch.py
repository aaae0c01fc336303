"""Pixels as colours: which bands are shown, and the limits that all pictures of a data set share."""

from collections.abc import Sequence

import numpy as np

from folds.scan import Scan


def shown_bands(bands: Sequence[str]) -> list[int]:
    """Positions of red, green and blue; else of the first three bands; else of the first, three times: grey."""
    named = [bands.index(name) for name in ("red", "green", "blue") if name in bands]
    return named if len(named) == 3 else [0, 1, 2] if len(bands) >= 3 else [0, 0, 0]


class Stretch:
    """Bands -> 8-bit colours by fixed limits, the same for every tile: a hazy tile is to look hazy."""

    def __init__(self, sample_NPB: np.ndarray, bands: Sequence[str]):
        """
        Args:
            sample_NPB: some pixels; the limits are their 1st and 99th percentiles.
        """
        self.low_B, self.high_B = np.percentile(sample_NPB, (1, 99), axis=(0, 1))
        at = {band: i for i, band in enumerate(bands)}
        self.rgb = shown_bands(bands)
        self.false = [at["nir"], at["red"], at["green"]] if {"nir", "red", "green"} <= at.keys() else None
        """Near infrared as red: vegetation is red, water black. None: the bands for it are not there."""

    @classmethod
    def of(cls, scan: Scan, split_N: np.ndarray, bands: Sequence[str]) -> "Stretch":
        """By the pixels with data of a scan's train tiles."""
        return cls(scan.sample_NPB[(split_N == "train") & (scan.data_N > 0)], bands)

    def true_color(self, image_HWB: np.ndarray) -> np.ndarray:
        """In the `shown_bands`."""
        return self._scaled(image_HWB, self.rgb)

    def false_color(self, image_HWB: np.ndarray) -> np.ndarray:
        return self._scaled(image_HWB, self.false)

    def _scaled(self, image_HWB: np.ndarray, bands: list[int]) -> np.ndarray:
        low, high = self.low_B[bands], self.high_B[bands]
        scaled = (image_HWB[:, :, bands].astype(np.float32) - low) / np.maximum(high - low, 1e-9)
        # Dark tiles are common in satellite imagery: a mild gamma shows their shadows.
        return (255 * np.clip(scaled, 0, 1) ** 0.8).astype(np.uint8)
