"""What a blend reads: the predictions of all models on the same tiles, tile by tile.

Probabilities come as the stores keep them: uint8, where 255 is 1, or float16/32. Folds, groups and truth: OOF only.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Source(Protocol):
    """Predictions for tiles that are to be labelled."""

    classes: Sequence[str]
    models: Sequence[str]
    """Models of all classes."""
    specialists: dict[str, int]
    """Models of one class -> its index."""
    names: Sequence[str]
    """Tiles."""

    def probs(self, i: int, models: Sequence[str]) -> np.ndarray:
        """(M, C, H, W) of tile i by the models asked for, in the order asked for. Only their files are read."""

    def evidence(self, i: int, specialists: Sequence[str]) -> np.ndarray:
        """(S, H, W): each specialist's probability that the pixel is of its class."""


class OofSource(Source, Protocol):
    """The same for train tiles, each by members that never saw it, with what a score needs."""

    fold_N: np.ndarray
    group_N: np.ndarray
    """Integers 0..G-1."""
    hist_NC: np.ndarray
    """Pixels per tile and class."""

    def truth(self, i: int) -> np.ndarray:
        """(H, W) uint8 indices; 255: ignored."""
