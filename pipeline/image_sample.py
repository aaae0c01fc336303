"""Windows of images of any size that stand for all of them, where batch norms go by what is predicted."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

import numpy as np

from base.progress import track
from pipeline.batch_norms import MOST_TILES, PixelSample, in_twos, spread_batches
from pipeline.image_files import Found, ReadPixels

MOST_BYTES = 2**28  # of all windows: they are held while one member after the other adapts
Window = tuple[slice, slice]


def sample_of_images(found: Sequence[Found], read: ReadPixels, tile_px: tuple[int, int], at_once: int) -> PixelSample:
    """Windows of a tile's size, or of the image's own where that is smaller, side by side over all images.

    Where they are more than is held, some of them by chance, always the same. A window that is mostly without data is
    left out, and so is what is left over at an image's right and bottom.

    Args:
        tile_px: height and width of the run's tiles.
        at_once: windows of one pass.
    """
    places = [(image, window) for image in found for window in _windows(image, tile_px)]
    most = min(MOST_TILES, max(2, MOST_BYTES // (tile_px[0] * tile_px[1] * found[0].pixel_bytes)))
    if len(places) > most:
        chosen = np.sort(np.random.default_rng(0).choice(len(places), most, replace=False))
        places = [places[number] for number in chosen]
    of_shape: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    of_image = [(image, [window for _, window in each]) for image, each in groupby(places, lambda place: place[0])]
    for image, windows in track(of_image, "look at images"):
        pixels_HWB, empty_HW = read(image.path)
        for window in windows:
            if empty_HW[window].mean() <= 0.5:
                of_shape[pixels_HWB[window].shape].append(pixels_HWB[window].copy())
    held = [np.stack(tiles) for tiles in of_shape.values()]
    batches = [
        partial(_rows, tiles_NHWB, row_N)
        for tiles_NHWB in held
        for row_N in spread_batches(np.arange(len(tiles_NHWB)), at_once)
    ]
    return PixelSample(sum(map(len, held)), batches)


def _rows(tiles_NHWB: np.ndarray, row_N: np.ndarray) -> np.ndarray:
    return tiles_NHWB[in_twos(row_N)]


def _windows(image: Found, tile_px: tuple[int, int]) -> Iterator[Window]:
    """From the image's top down."""
    height, width = min(image.height, tile_px[0]), min(image.width, tile_px[1])
    for top in range(0, image.height - height + 1, height):
        for left in range(0, image.width - width + 1, width):
            yield slice(top, top + height), slice(left, left + width)
