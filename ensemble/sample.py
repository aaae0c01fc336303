"""The resident sample: pixels drawn from the OOF tiles, on which everything is fitted. Its size is a budget.

Pixels of rare classes, in the truth or in the models' opinion, are all there or nearly; of forest one in thousands.
Each carries the inverse of its chance to be drawn, so that sums over the sample estimate sums over all pixels without
bias (Horvitz and Thompson 1952).
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from base.threads import track_in_threads
from config.data import IGNORE_INDEX
from ensemble.labels import class_order, top_class
from ensemble.source import OofSource

# Tiles whose pixels are put together at once. Small arrays that stay, made among large ones that go, leave memory in
# pieces: 2.9 GiB after 16,017 tiles.
MERGED = 64
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill the unit interval evenly wherever one stops


@dataclass(frozen=True)
class Sample:
    """P pixels of M models and S specialists, sorted by fold. Models and specialists are sorted by name."""

    classes: tuple[str, ...]
    models: tuple[str, ...]
    specialists: dict[str, int]
    """Name -> class index."""
    probs_MCP: np.ndarray
    """As the source gives them: uint8 (255 is 1) or float."""
    evidence_SP: np.ndarray
    truth_P: np.ndarray
    weight_P: np.ndarray
    """float64; pixels that this one stands for."""
    fold_P: np.ndarray
    group_P: np.ndarray
    """int32, 0..G-1, each at least once."""
    tile_P: np.ndarray
    """int32, position in the source."""

    @property
    def folds(self) -> list[int]:
        return np.unique(self.fold_P).tolist()

    @property
    def num_groups(self) -> int:
        return int(self.group_P.max(initial=-1)) + 1

    def without(self, fold: int | None) -> "Sample":
        """All pixels but those of a fold; None: all."""
        if fold is None:
            return self
        first, last = np.searchsorted(self.fold_P, [fold, fold + 1])
        return self._of(np.concatenate([np.arange(first), np.arange(last, len(self.fold_P))]))

    def only(self, fold: int) -> "Sample":
        """The pixels of a fold."""
        first, last = np.searchsorted(self.fold_P, [fold, fold + 1])
        return self._of(slice(first, last))

    def of_models(self, names: Sequence[str]) -> "Sample":
        """The sample as if there were only these models of all classes."""
        if tuple(names) == self.models:
            return self
        return replace(self, models=tuple(names), probs_MCP=self.probs_MCP[[self.models.index(n) for n in names]])

    def without_models(self, names: Sequence[str]) -> "Sample":
        """The sample as if there were no such models or specialists."""
        kept = [s for s, specialist in enumerate(self.specialists) if specialist not in names]
        return replace(
            self.of_models([model for model in self.models if model not in names]),
            specialists={name: target for name, target in self.specialists.items() if name not in names},
            evidence_SP=self.evidence_SP[kept],
        )

    def thinned(self, at_most: int) -> "Sample":
        """At most that many of the pixels, evenly spaced: of each class equally many, or all it has, so that none is
        lost. Their weights still sum to the class's."""
        if len(self.truth_P) <= at_most:
            return self
        count_C = np.bincount(self.truth_P)
        rate_C = class_rates(count_C, at_most)
        order_P = np.argsort(self.truth_P, kind="stable")
        rank_P = np.empty(len(order_P))  # among those of its class
        rank_P[order_P] = np.arange(len(order_P)) - np.repeat(np.cumsum(count_C) - count_C, count_C)
        rate_P = rate_C[self.truth_P]
        thin = self._of(np.flatnonzero(np.floor((rank_P + 1) * rate_P) > np.floor(rank_P * rate_P)))
        left_C, all_C = (np.bincount(each.truth_P, each.weight_P) for each in (thin, self))
        return replace(thin, weight_P=thin.weight_P * (all_C / np.maximum(left_C, 1e-12))[thin.truth_P])

    def _of(self, pixels: np.ndarray | slice) -> "Sample":
        group_P = self.group_P[pixels]
        there_G = np.bincount(group_P, minlength=self.num_groups) > 0
        return replace(
            self,
            probs_MCP=self.probs_MCP[:, :, pixels],
            evidence_SP=self.evidence_SP[:, pixels],
            truth_P=self.truth_P[pixels],
            weight_P=self.weight_P[pixels],
            fold_P=self.fold_P[pixels],
            group_P=(np.cumsum(there_G) - 1)[group_P].astype(np.int32),
            tile_P=self.tile_P[pixels],
        )


def draw_sample(source: OofSource, pixels: int, seed: int = 0) -> Sample:
    """Draw at most `pixels` pixels; all when there are fewer than half of that. Reads every tile once.

    A class's rate is what gives each class the same number of pixels, or all it has. A pixel is drawn at the rate of
    its class or of the class that the models' mean says, whichever is higher: false alarms of a rare class are as
    rare as its hits, and weigh as much in its IoU. The draw is a function of (seed, tile).
    """
    models = tuple(sorted(source.models))
    specialists = dict(sorted(source.specialists.items()))
    rate_C = class_rates(source.hist_NC.sum(0), pixels / 2)
    order = class_order(source.classes)
    num_classes = len(source.classes)

    def draw(i: int) -> dict[str, np.ndarray]:
        truth_X = source.truth(i).ravel()
        probs_MCX = source.probs(i, models).reshape(len(models), num_classes, -1)
        wide = np.uint32 if probs_MCX.dtype.kind == "u" else np.float32
        said_X = top_class(probs_MCX.sum(0, dtype=wide), order)
        rate_X = np.maximum(rate_C[said_X], np.append(rate_C, np.zeros(256 - num_classes))[truth_X])
        lot_X = _lots(truth_X, num_classes, seed, source.names[i])
        drawn = np.flatnonzero((lot_X < rate_X) & (truth_X != IGNORE_INDEX))
        evidence_SX = source.evidence(i, tuple(specialists)).reshape(len(specialists), truth_X.size)
        return {
            "probs": np.ascontiguousarray(probs_MCX[:, :, drawn]),
            "evidence": evidence_SX[:, drawn],
            "truth": truth_X[drawn],
            "rate": rate_X[drawn],
            "lot": lot_X[drawn],
            "tile": np.full(len(drawn), i, np.int32),
        }

    fold_N = np.asarray(source.fold_N)
    folds = np.unique(fold_N)
    parts: list[dict[str, np.ndarray]] = []
    for fold in folds:
        tiles = np.flatnonzero(fold_N == fold)
        of_tiles = track_in_threads(draw, tiles, f"draw OOF sample, fold {fold}")
        parts += _within(of_tiles, pixels // len(folds))

    drawn = _joined(parts)
    tile_P = drawn["tile"]
    group_P = np.unique(np.asarray(source.group_N)[tile_P], return_inverse=True)[1]
    return Sample(
        classes=tuple(source.classes),
        models=models,
        specialists=specialists,
        probs_MCP=drawn["probs"],
        evidence_SP=drawn["evidence"],
        truth_P=drawn["truth"],
        weight_P=1.0 / drawn["rate"],
        fold_P=fold_N[tile_P],
        group_P=group_P.astype(np.int32),
        tile_P=tile_P,
    )


def class_rates(total_C: np.ndarray, pixels: float) -> np.ndarray:
    """(C,) the share of each class's pixels to draw, so that all have equally many, or all of theirs, and the sum is
    `pixels` (1 everywhere if there are fewer)."""
    total_C = np.asarray(total_C, np.float64)
    rate_C = np.ones(len(total_C))
    left = pixels
    for rank, c in enumerate(np.argsort(total_C, kind="stable")):
        quota = left / (len(total_C) - rank)
        rate_C[c] = min(1.0, quota / max(total_C[c], 1.0))
        left -= rate_C[c] * total_C[c]
    return rate_C


def _lots(truth_X: np.ndarray, num_classes: int, seed: int, name: str) -> np.ndarray:
    """(X,) numbers in [0, 1): a pixel is drawn when its lot is below its rate.

    Each is uniform by itself, as the start is; those of one class in one tile are spread evenly over the interval in
    reading order, so that any rate draws pixels from all over the tile and nearly the same number each time.
    """
    start = np.random.default_rng([seed, zlib.crc32(name.encode())]).random()
    lot_X = np.ones(len(truth_X))
    for c in range(num_classes):
        pixels = np.flatnonzero(truth_X == c)
        lot_X[pixels] = (start + GOLDEN * np.arange(len(pixels))) % 1.0
    return lot_X


def _within(parts: Iterable[dict[str, np.ndarray]], pixels: int) -> list[dict[str, np.ndarray]]:
    """The parts of one fold, thinned to a budget: all rates are halved, as often as need be, when the models see a
    rare class everywhere. Fold by fold, so that what a fold's tiles look like changes no other fold's draw."""
    merged: list[dict[str, np.ndarray]] = []
    loose: list[dict[str, np.ndarray]] = []
    scale, count = 1.0, 0
    for part in parts:
        loose.append(_thin(part, scale))
        count += len(loose[-1]["truth"])
        if len(loose) == MERGED:
            merged, loose = [*merged, _joined(loose)], []
        while count > pixels:
            scale /= 2
            merged, loose = ([_thin(part, 0.5) for part in some] for some in (merged, loose))
            count = sum(len(part["truth"]) for part in (*merged, *loose))
    return merged + loose


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {what: np.concatenate([part[what] for part in parts], axis=-1) for what in parts[0]}


def _thin(part: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    if scale == 1:
        return part
    thin = part | {"rate": part["rate"] * scale}
    kept = thin["lot"] < thin["rate"]
    return {what: values[..., kept] for what, values in thin.items()}
