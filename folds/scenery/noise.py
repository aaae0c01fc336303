"""Smooth random fields, crooked lines and blobs, out of which the landscape is made."""

from collections.abc import Sequence

import cv2
import numpy as np

PEAK = 8192  # a fractal field stays within -PEAK..PEAK


def fractal(rng: np.random.Generator, height: int, width: int, coarsest: int, finest: int, keep: float) -> np.ndarray:
    """(H, W) int16 within -PEAK..PEAK: random lattices of periods coarsest, coarsest/2, ..., finest, added up.

    Each lattice is weighted `keep` (below 1) times the one before. cv2.pyrUp on integers doubles a field by the
    cubic B-spline's subdivision mask, which is smooth and exact; resizing a lattice linearly would show its cells.

    Args:
        coarsest, finest: powers of two, in pixels.
    """
    octaves = (coarsest // finest).bit_length()
    amplitude = PEAK * (1 - keep) / (1 - keep**octaves)
    period = coarsest
    field = _lattice(rng, height, width, period, amplitude)
    while period > 1:
        field = cv2.pyrUp(field)
        period //= 2
        rows, cols = _lattice_shape(height, width, period)
        field = field[:rows, :cols]
        if period >= finest:
            amplitude *= keep
            field = field + _lattice(rng, height, width, period, amplitude)
    return np.ascontiguousarray(field[:height, :width])


def canopy(rng: np.random.Generator, height: int, width: int, spacing: int = 6) -> np.ndarray:
    """(H, W) int16: the upper surface of trees side by side, 0 at the ground, 36 on the tallest tops.

    One tree stands anywhere in each square of `spacing` pixels. It is a paraboloid, `top - distance²`, with a radius
    of 3 to 6 pixels; the canopy is the highest of the nine trees around a pixel.
    """
    rows, cols = -(-height // spacing), -(-width // spacing)
    y, x = rng.integers(0, spacing, (2, rows + 2, cols + 2), np.int16)
    top = rng.integers(9, 37, (rows + 2, cols + 2), np.int16)
    within = np.arange(spacing, dtype=np.int16)
    canopy = np.zeros((rows, spacing, cols, spacing), np.int16)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near = slice(1 + down, rows + 1 + down), slice(1 + right, cols + 1 + right)
            dy = within[None, :, None] - (y[near] + np.int16(down * spacing))[:, None, :]
            dx = within - (x[near] + np.int16(right * spacing))[:, :, None]
            # (rows, spacing, cols, 1) and (rows, 1, cols, spacing): the squares add up by broadcasting.
            below_top = (top[near][:, None] - dy * dy)[..., None]
            np.maximum(canopy, below_top - (dx * dx)[:, None], out=canopy)
    return np.ascontiguousarray(canopy.reshape(rows * spacing, cols * spacing)[:height, :width])


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector (y, x)."""
    while True:
        vector = rng.uniform(-1, 1, 2)
        length = norm(vector)
        if 0.1 < length <= 1:
            return vector / length


def norm(vector: Sequence[float]) -> float:
    return float(np.sqrt(vector[0] * vector[0] + vector[1] * vector[1]))


def across(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A start and an end (y, x) just outside two opposite sides of a square scene."""
    a, b = rng.uniform(0.1, 0.9, 2) * size
    start, end = np.array([-8.0, a]), np.array([size + 8.0, b])
    return (start, end) if rng.random() < 0.5 else (start[::-1], end[::-1])


def crooked_line(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, bend: float) -> np.ndarray:
    """(P, 2) points (y, x) from start to end: the midpoint moves sideways by up to `bend` of the length, again and
    again, then the corners are cut (Chaikin 1974)."""
    points = np.array([start, end], float)
    for _ in range(4):
        step = np.diff(points, axis=0)
        sideways = np.stack([-step[:, 1], step[:, 0]], 1) * rng.uniform(-bend, bend, (len(step), 1))
        line = np.empty((2 * len(points) - 1, 2))
        line[::2] = points
        line[1::2] = (points[:-1] + points[1:]) / 2 + sideways
        points = line
    for _ in range(2):
        quarter = points[:-1] * 0.75 + points[1:] * 0.25
        three_quarters = points[:-1] * 0.25 + points[1:] * 0.75
        points = np.concatenate([points[:1], np.stack([quarter, three_quarters], 1).reshape(-1, 2), points[-1:]])
    return points


def draw_line(mask_HW: np.ndarray, points: np.ndarray, width: int, value: int = 1) -> None:
    """Draw a line of points (y, x) into a uint8 mask, in place."""
    corners = np.round(points[:, ::-1] * 8).astype(np.int32)  # x, y with 3 fractional bits
    cv2.polylines(mask_HW, [corners], False, value, width, cv2.LINE_8, 3)


def blob(rng: np.random.Generator, height: int, width: int, rough: float = 1.0) -> np.ndarray:
    """(H, W) bool: an ellipse that fills the rectangle, its border gnawed and bulged by noise."""
    y = (2 * np.arange(height, dtype=np.float32)[:, None] + 1 - height) / height
    x = (2 * np.arange(width, dtype=np.float32)[None] + 1 - width) / width
    period = 1 << max(2, (min(height, width) // 2).bit_length() - 1)
    noise = fractal(rng, height, width, period, max(1, period // 4), 0.5).astype(np.float32)
    return y * y + x * x < 0.8 + noise * np.float32(2 * rough / PEAK)


def _lattice_shape(height: int, width: int, period: int) -> tuple[int, int]:
    return height // period + 3, width // period + 3


def _lattice(rng: np.random.Generator, height: int, width: int, period: int, amplitude: float) -> np.ndarray:
    top = int(amplitude)
    return rng.integers(-top, top + 1, _lattice_shape(height, width, period), np.int16)
