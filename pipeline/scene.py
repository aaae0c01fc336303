"""Predict a large image by windows that overlap, in strips from its top down: the memory of one row of windows."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

WINDOW_PX = 1024
STRIP_PX = 128  # rows that are given out at once: what is made of them is of their size
OVERLAP = 0.25  # of a window's side: where the next one takes over, little by little
PredictPixels = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, B) pixels -> (N, C, H, W) float32 probabilities."""


def predict_scene(pixels_HWB: np.ndarray, predict: PredictPixels, window_px: int = WINDOW_PX) -> Iterator[np.ndarray]:
    """(C, h, W) probabilities of the next h rows, by windows each of which counts less towards its edge.

    A row is given out as soon as no further window lies over it.
    """
    height, width = min(window_px, pixels_HWB.shape[0]), min(window_px, pixels_HWB.shape[1])
    weight_HW = np.outer(_ramp(height), _ramp(width)).astype(np.float32)
    total_CHW, weights_HW = None, np.zeros((height, pixels_HWB.shape[1]), np.float32)
    tops = _starts(pixels_HWB.shape[0], height)
    for top, next_top in pairwise([*tops, pixels_HWB.shape[0]]):
        for left in _starts(pixels_HWB.shape[1], width):
            across = slice(left, left + width)
            probs_CHW = predict(pixels_HWB[top : top + height, across][None])[0]
            if total_CHW is None:
                total_CHW = np.zeros((len(probs_CHW), *weights_HW.shape), np.float32)
            total_CHW[:, :, across] += probs_CHW * weight_HW
            weights_HW[:, across] += weight_HW
        rows = next_top - top
        for first in range(0, rows, STRIP_PX):
            here = slice(first, min(first + STRIP_PX, rows))
            yield total_CHW[:, here] / weights_HW[here]
        for values in (total_CHW, weights_HW):
            values[..., : height - rows, :] = values[..., rows:, :]
            values[..., height - rows :, :] = 0


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin: the first at 0, the last at the end, evenly spread, overlapping by OVERLAP or more."""
    overlap = round(window * OVERLAP)
    count = 1 if length <= window else -(-(length - overlap) // (window - overlap))
    return np.linspace(0, length - window, count).round().astype(int).tolist()


def _ramp(length: int) -> np.ndarray:
    """Weights along a window's side: 1 inside, falling towards 0 over the overlap."""
    to_edge = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5)
    return np.minimum(1.0, to_edge / max(1, round(length * OVERLAP)))
