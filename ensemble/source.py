"""What a blend reads: the predictions of all models on the same tiles, tile by tile.

Probabilities come as the stores keep them: uint8, where 255 is 1, or float16/32. `folds` and groups come with OOF only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from config.data import IGNORE_INDEX


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


@dataclass(frozen=True)
class MemorySource:
    """An OOF source that lies in memory: for tests, benchmarks and notebooks."""

    classes: tuple[str, ...]
    models: tuple[str, ...]
    probs_NMCHW: np.ndarray
    truth_NHW: np.ndarray
    fold_N: np.ndarray
    group_N: np.ndarray
    names: tuple[str, ...]
    specialists: dict[str, int]
    evidence_NSHW: np.ndarray

    def probs(self, i: int, models: Sequence[str]) -> np.ndarray:
        return self.probs_NMCHW[i, [self.models.index(model) for model in models]]

    def evidence(self, i: int, specialists: Sequence[str]) -> np.ndarray:
        rows = [list(self.specialists).index(name) for name in specialists]
        return self.evidence_NSHW[i, rows]

    def truth(self, i: int) -> np.ndarray:
        return self.truth_NHW[i]

    @cached_property
    def hist_NC(self) -> np.ndarray:
        return np.stack(
            [np.bincount(t[t != IGNORE_INDEX].ravel(), minlength=len(self.classes)) for t in self.truth_NHW]
        )


def memory_source(
    probs_NMCHW: np.ndarray,
    truth_NHW: np.ndarray,
    fold_N: np.ndarray,
    group_N: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    specialists: dict[str, int] | None = None,
    evidence_NSHW: np.ndarray | None = None,
) -> MemorySource:
    """A `MemorySource` with names made up where none are given; each tile its own group unless said otherwise."""
    count, num_models, num_classes, height, width = probs_NMCHW.shape
    if evidence_NSHW is None:
        evidence_NSHW = np.zeros((count, 0, height, width), np.uint8)
    return MemorySource(
        classes=tuple(classes or (f"class{c:03d}" for c in range(num_classes))),
        models=tuple(models or (f"model{m:03d}" for m in range(num_models))),
        probs_NMCHW=probs_NMCHW,
        truth_NHW=truth_NHW,
        fold_N=np.asarray(fold_N),
        group_N=np.arange(count) if group_N is None else np.asarray(group_N),
        names=tuple(f"{i:06d}" for i in range(count)),
        specialists=specialists or {},
        evidence_NSHW=evidence_NSHW,
    )
