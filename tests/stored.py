"""Several tiles of a store at once, as tests and benchmarks look at them; the program reads tile by tile."""

from collections.abc import Sequence

import numpy as np

from pipeline.store import Store


def read_many(store: Store, tile_N: Sequence[int]) -> np.ndarray:
    """(N, C, H, W) float32 probabilities, in the order asked for."""
    return np.stack([store.read(tile) for tile in tile_N])


def read_many_raw(store: Store, tile_N: Sequence[int]) -> np.ndarray:
    """(N, C, H, W) in the stored dtype, in the order asked for."""
    return np.stack([store.read_raw(tile) for tile in tile_N])
