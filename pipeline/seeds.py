"""Every random choice has a seed of its own, made from what it is for: never from the worker or from the past."""

import numpy as np

# The first number of each family, so that no two families share a seed.
WEIGHTS, EPOCH, ORDER, TILE = 1, 2, 3, 4


def seed_of(family: int, *numbers: int) -> int:
    """A 63-bit seed for a family and its numbers, e.g. (TILE, seed, epoch, tile, occurrence)."""
    words = np.random.SeedSequence([family, *numbers]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
