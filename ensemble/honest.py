"""The honest score: the whole fit, its choices included, repeated without each fold and applied to that fold.

A blend that is scored on the tiles it was fitted on flatters itself, the more so the more it can choose. That score
stands beside the honest one and is called in-sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from base.threads import track_in_threads
from config.ensemble import Blend
from ensemble.apply import apply_blend
from ensemble.evidence import Counter, Estimate, Tally, gain, joined, score
from ensemble.fit import Fit, fit_blend, tally_sample
from ensemble.fitted import FittedBlend
from ensemble.sample import Sample
from ensemble.source import OofSource, Source
from folds.metrics import confusion


@dataclass(frozen=True)
class HonestFit:
    """A fit on everything, which ships, and one without each fold, which says what it is worth."""

    whole: Fit
    without: dict[int, Fit]

    @property
    def stages(self) -> list[str]:
        return list(self.whole.stages)

    def of_folds(self, fold_N: np.ndarray) -> "HonestFit":
        """With a fit for each fold of the tiles: one without a labelled pixel has the whole fit, which saw none."""
        folds = np.unique(fold_N).tolist()
        return HonestFit(self.whole, {fold: self.without.get(fold, self.whole) for fold in folds})


@dataclass(frozen=True)
class Scored:
    """A stage of a blend: its counts on tiles that it was not fitted on, and on those it was."""

    honest: Tally
    in_sample: Tally

    @property
    def estimate(self) -> Estimate:
        """Honest mIoU with its interval."""
        return score(self.honest)

    def gain_over(self, other: "Scored") -> Estimate:
        """Honest gain in mIoU with its interval."""
        return gain(self.honest, other.honest)


def fit_honestly(sample: Sample, settings: Blend, temperatures: str | None = None) -> HonestFit:
    """Fit on the whole sample and without each of its folds.

    With two folds a fit without one has no evidence; so the whole one asks for none either, or what ships would have
    chosen where nothing that is scored could.

    Args:
        temperatures: that step's kind, "none" or "tempered"; None: as `settings.calibration` asks.
    """
    ask = len(sample.folds) > 2

    def fit(fold: int | None) -> Fit:
        return fit_blend(sample.without(fold), settings, ask, temperatures)

    keys = [None, *sample.folds]
    by_fold = dict(zip(keys, track_in_threads(fit, keys, "fit blend"), strict=True))
    return HonestFit(by_fold.pop(None), by_fold)


def score_sample(fits: HonestFit, sample: Sample) -> dict[str, Scored]:
    """Each stage's score, estimated from the sample: quick, for comparing settings."""
    return {
        stage: Scored(
            honest=joined(
                tally_sample(fit.stages[stage], sample.only(fold)) for fold, fit in sorted(fits.without.items())
            ),
            in_sample=tally_sample(fits.whole.stages[stage], sample),
        )
        for stage in fits.stages
    }


def score_tiles(fits: HonestFit, source: OofSource) -> dict[str, Scored]:
    """Each stage's exact score: every pixel of every tile, read once. Memory does not grow with the tiles."""
    stages = fits.stages
    num_classes, num_groups = len(source.classes), int(np.max(source.group_N)) + 1
    honest = {stage: Counter(num_groups, num_classes) for stage in stages}
    in_sample = {stage: Counter(num_groups, num_classes) for stage in stages}
    models = sorted({model for fit in (fits.whole, *fits.without.values()) for stage in stages
                     for model in fit.stages[stage].models})  # fmt: skip

    def confusions(i: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        truth_HW = source.truth(i)
        probs = dict(zip(models, source.probs(i, models), strict=True))

        def of(fit: Fit) -> dict[str, np.ndarray]:
            found: dict[FittedBlend, np.ndarray] = {}  # steps that changed nothing are not computed again
            for stage in stages:
                blend = fit.stages[stage]
                if blend not in found:
                    found[blend] = confusion(label_tile(blend, probs, source, i), truth_HW, num_classes)
            return {stage: found[fit.stages[stage]] for stage in stages}

        return of(fits.without[int(source.fold_N[i])]), of(fits.whole)

    tiles = range(len(source.fold_N))
    for i, (held_out, seen) in zip(tiles, track_in_threads(confusions, tiles, "score blend"), strict=True):
        for stage in stages:
            honest[stage].add(source.group_N[i], held_out[stage])
            in_sample[stage].add(source.group_N[i], seen[stage])
    return {stage: Scored(honest[stage].tally(), in_sample[stage].tally()) for stage in stages}


def label_tile(blend: FittedBlend, probs: Mapping[str, np.ndarray], source: Source, i: int) -> np.ndarray:
    """(H, W) uint8 indices of a tile, from probabilities already read: model -> (C, H, W)."""
    evidence_SHW = source.evidence(i, blend.specialist_names)
    return apply_blend(blend, [probs[model] for model in blend.models], evidence_SHW)[1]
