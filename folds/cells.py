"""Tiles in few cells of equal area, whose borders may run through pixels: turned tiles have the turned cells."""

import numpy as np


def cell_means(image: np.ndarray, cells: int, axes: tuple[int, int] = (0, 1)) -> np.ndarray:
    """float32 means over `cells` x `cells` cells, which lie along two axes; each is at least a pixel wide.

    A pixel on a border counts on both sides, by what lies there. Of whole pixels the cells would differ in width, in an
    order that is another from right to left.
    """
    means = image
    for axis in axes:
        size = image.shape[axis]
        border_E = np.arange(cells) * size
        start_E, shape = border_E // cells, [-1 if a == axis else 1 for a in range(image.ndim)]
        sums = np.add.reduceat(means, start_E, axis=axis, dtype=np.float32)
        before = np.take(means, start_E, axis=axis) * np.reshape(border_E % cells / cells, shape).astype(np.float32)
        # What of a cell's first pixel lies in the cell before it belongs there.
        sums += np.diff(before, axis=axis, append=np.float32(0))
        means = sums * np.float32(cells / size)
    return means
