"""Class histograms with the competition's shares, and scans of tiles that are on no disk, for benchmarks of folds."""

import numpy as np
from scipy.ndimage import uniform_filter1d

from folds.scan import Scan
from folds.scenery.canvas import PIXELS

SHARES = np.array([*PIXELS.values()]) / sum(PIXELS.values())
"""Of the 10 classes in the competition's first round."""
TILES, PX, BANDS = 16_017, 256, 4


def draw_groups(count: int, rng: np.random.Generator, tiles: int = TILES) -> np.ndarray:
    """(N,) groups of uneven size: the largest has some ten times the tiles of the middle one."""
    weight = rng.lognormal(0, 0.7, count)
    return np.sort(np.concatenate([np.arange(count), rng.choice(count, tiles - count, p=weight / weight.sum())]))


def draw_hists(rng: np.random.Generator, group_N: np.ndarray) -> np.ndarray:
    """(N, 10) pixels: most tiles hold few of the classes, and tiles of a group are alike."""
    chance_C = np.clip(1.2 * np.sqrt(SHARES), 0, 0.95)
    tiles = len(group_N)
    amount_NC = rng.lognormal(0, 1, (tiles, 10)) * (rng.random((tiles, 10)) < chance_C)
    amount_NC *= rng.lognormal(0, 1, (group_N.max() + 1, 10))[group_N] * SHARES / chance_C
    amount_NC[amount_NC.sum(1) == 0, 1] = 1
    for _ in range(100):  # to the competition's shares, with tiles that are full
        amount_NC /= amount_NC.sum(1, keepdims=True)
        amount_NC *= SHARES / amount_NC.mean(0)
    return np.rint(amount_NC / amount_NC.sum(1, keepdims=True) * PX * PX).astype(np.int64)


def draw_scan(
    rng: np.random.Generator, side: int, tiles: int = TILES, px: int = PX, bands: int = BANDS
) -> tuple[Scan, set[tuple[int, int, str]]]:
    """A scan of tiles in scenes of side x side tiles, in random order, and its true neighbours.

    Borders are cut from strips of correlated noise, one for each place where two tiles meet and one for each outer
    border; thumbnails are correlated noise. It has the numbers of a real scan at a hundredth of its pixels.
    """
    place = rng.permutation(tiles)  # position in scene order of each tile
    at = np.argsort(place)
    number = np.arange(tiles)
    row, col = number % side**2 // side, number % side
    has_right, has_below = col < side - 1, row < side - 1
    borders = {}
    neighbours = set()
    for relation, first_of, (last, first), step in (
        ("right", has_right, ("right_N2HB", "left_N2HB"), 1),
        ("below", has_below, ("bottom_N2WB", "top_N2WB"), side),
    ):
        strip = _strips(rng, tiles, px, bands)  # of each tile and what follows it
        lone = _strips(rng, tiles, px, bands)  # of tiles that follow nothing
        meets = first_of & (number + step < tiles)
        borders[last] = strip[place][:, [1, 0]]
        follows = np.full(tiles, -1)
        follows[number[meets] + step] = number[meets]
        borders[first] = np.where(
            (follows >= 0)[place][:, None, None, None], strip[follows[place]][:, 2:], lone[place][:, 2:]
        )
        neighbours |= {(int(at[a]), int(at[a + step]), relation) for a in number[meets]}
    thumbs = rng.normal(100, 20, (tiles, 32, 32, bands)).astype(np.float32)
    for axis in (1, 2):
        thumbs = uniform_filter1d(thumbs, 3, axis=axis)
    ones = np.ones((tiles, bands))
    scan = Scan(
        hist_NC=np.zeros((tiles, 10), np.int64),
        size_N2=np.full((tiles, 2), px),
        data_N=np.full(tiles, px**2),
        mean_NB=100 * ones,
        std_NB=20 * ones,
        zero_NB=0 * ones,
        full_NB=0 * ones,
        digest_N=np.array([f"{n:064d}" for n in range(tiles)]),
        mask_digest_N=np.array(["0" * 64] * tiles),
        sample_NPB=np.zeros((tiles, 1, bands), np.uint8),
        thumb_NEEB=thumbs,
        **borders,
    )
    return scan, neighbours


def _strips(rng: np.random.Generator, tiles: int, px: int, bands: int) -> np.ndarray:
    """(N, 4, px, bands) uint8: four lines side by side, the outer two of one tile and of the next."""
    strip = np.empty((tiles, 4, px, bands), np.uint8)
    for start in range(0, tiles, 1000):
        noise = rng.standard_normal((min(1000, tiles - start), 4, px, bands), np.float32)
        structure = uniform_filter1d(uniform_filter1d(noise[:, :1], 24, axis=2), 12, axis=2)
        level = rng.normal(110, 15, (len(noise), 1, 1, bands)).astype(np.float32)
        strip[start : start + 1000] = np.clip(level + 150 * structure + 5 * noise, 0, 255)
    return strip
