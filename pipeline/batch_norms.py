"""Of which tiles the batch norms of a trained network take their statistics.

After training, of training tiles without augmentation ("precise BatchNorm", Wu & Johnson 2021). With `predict.adapt`,
of the tiles that are predicted: sensor, season and region move what each layer is given, and that is seen without a
label (AdaBN, Li et al. 2016). Few tiles tell it badly, so the trained statistics count as `PRIOR_TILES` further ones
(Schneider et al. 2020), and as a third of any number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from base.progress import track
from models.batch_statistics import update_batch_statistics
from pipeline.device import autocast
from pipeline.prepare import Preparation

MOST_TILES = 1000  # by chance; a mean over them is a thirtieth of what tiles differ by from that over all
BATCH = 16  # tiles at once: while statistics are taken a layer works by its batch, and of few it would be another layer
MOST_SHARE = 0.65  # of these statistics, however many the tiles: they are of their classes, too (docs/results.md)
PRIOR_TILES = 16  # scene by scene (12 to 25 tiles) none are worse, 32 no better (docs/results.md)


@dataclass(frozen=True)
class PixelSample:
    """Tiles that stand for all that are predicted."""

    tiles: int
    batches: Sequence[Callable[[], np.ndarray]]
    """Each makes (n, H, W, B) pixels, of two tiles or more; asked once for each network."""


def share_of(tiles: int) -> float:
    """Of the statistics of so many tiles, where the rest is of the trained ones."""
    return min(MOST_SHARE, tiles / (tiles + PRIOR_TILES))


def batch_after_training(trained_at_once: int) -> int:
    """Tiles at once where so many fitted with all that a backward pass keeps: no less, and up to four times as many."""
    return max(trained_at_once, min(BATCH, 4 * trained_at_once))


def batch_before_prediction(split_batch: int) -> int:
    """Tiles at once, whatever `predict.batch` says, which changes no result.

    Args:
        split_batch: parts in which batches fit into memory.
    """
    return max(2, BATCH // split_batch)


def spread_batches(tile_N: np.ndarray, at_once: int) -> list[np.ndarray]:
    """Some tiles, `MOST_TILES` at most, in batches of nearly one size, two tiles or more where there are two.

    In random order, always the same: by name a batch would be of one scene.
    """
    tile_N = np.random.default_rng(0).permutation(tile_N)[:MOST_TILES]
    parts = max(1, min(-(-len(tile_N) // at_once), len(tile_N) // 2))
    return np.array_split(tile_N, parts)


def in_twos(values_N: np.ndarray) -> np.ndarray:
    """The values, or one alone twice: where a layer is given one number of each channel, it has no variance."""
    return np.repeat(values_N, 2, 0) if len(values_N) == 1 else values_N


def adapt(
    network: nn.Module, sample: PixelSample, preparation: Preparation, dtype: torch.dtype | None, device: torch.device
) -> None:
    """Let the batch norms of a network on `device` go by a sample, in place. One that has none stays as it is."""
    batches = track(sample.batches, "adapt batch norms")
    images = (preparation(torch.from_numpy(pixels_NHWB()).to(device)) for pixels_NHWB in batches)
    with autocast(device, dtype):
        update_batch_statistics(network, images, share_of(sample.tiles))
