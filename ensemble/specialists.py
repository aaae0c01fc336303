"""Specialists: models of one class, blended as evidence for it, p' proportional to p^(1-a) s^a, or as a plain override.

Both are fitted on OOF. The share a minimises the log loss of "is it this class", the threshold maximises mIoU.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from ensemble.apply import apply_sample
from ensemble.calibration import fit_platt, fitting_part
from ensemble.decision import joining_miou
from ensemble.fitted import FittedBlend, FittedSpecialist
from ensemble.formulas import add_evidence, calibrated_evidence, floored, override_by
from ensemble.sample import Sample

LEAST_SHARE = 0.02
LEAST_GAIN = 1e-5  # share of the log loss; a specialist that says what is known already has every share for nothing
THRESHOLDS = np.append(1.0, np.linspace(0.98, 0.1, 45))  # falling: no pixel is overridden, then ever more


def fit_evidence(blend: FittedBlend, sample: Sample, names: Sequence[str]) -> FittedBlend:
    """The blend with these specialists, each calibrated, each with its share; one whose share is next to 0 is out.

    Shares are fitted one after the other, as they are applied: of two specialists of a class, the second is asked what
    it knows beside the first.
    """
    part = fitting_part(sample)
    alone = replace(blend, specialists=())
    probs_CP, _ = apply_sample(alone, part)
    fitted = []
    for specialist, evidence_P in _calibrated(part, names):
        is_class_P = part.truth_P == specialist.target
        share = _fit_share(floored(probs_CP)[specialist.target], evidence_P, is_class_P, part.weight_P)
        if share >= LEAST_SHARE:
            fitted.append(replace(specialist, share=share))
            add_evidence(probs_CP, fitted[-1], evidence_P)
    return replace(alone, specialists=tuple(fitted))


def fit_override(blend: FittedBlend, sample: Sample, names: Sequence[str]) -> FittedBlend:
    """The blend with each of these specialists winning above a threshold of its own; without those that never help.

    Thresholds are fitted one after the other, by the rule that is applied: a specialist takes a pixel from one before
    it only where it is further above its threshold.
    """
    fitted = replace(blend, specialists=())
    _, index_P = apply_sample(fitted, sample)
    margin_P = np.zeros(len(index_P), np.float32)
    for specialist, evidence_P in _calibrated(sample, names):
        joins_from_P = np.searchsorted(-THRESHOLDS, margin_P - evidence_P.astype(np.float64), side="right")
        miou_B = joining_miou(
            joins_from_P,
            len(THRESHOLDS),
            index_P,
            sample.truth_P,
            sample.weight_P,
            specialist.target,
            len(sample.classes),
        )
        chosen = int(np.argmax(miou_B))
        if (joins_from_P <= chosen).any():
            specialist = replace(specialist, threshold=float(THRESHOLDS[chosen]))
            fitted = replace(fitted, specialists=(*fitted.specialists, specialist))
            override_by(specialist, index_P, margin_P, evidence_P)
    return fitted


def _calibrated(sample: Sample, names: Sequence[str]) -> list[tuple[FittedSpecialist, np.ndarray]]:
    """Each specialist with its calibration, and its calibrated (P,) evidence."""
    part = fitting_part(sample)
    calibrated = []
    for row, (name, target) in enumerate(sample.specialists.items()):
        if name in names and (sample.truth_P == target).any():
            slope, bias = fit_platt(_unit(part.evidence_SP[row]), part.truth_P == target, part.weight_P)
            specialist = FittedSpecialist(name, target, slope, bias)
            calibrated.append((specialist, calibrated_evidence(specialist, sample.evidence_SP[row])))
    return calibrated


def _fit_share(probs_P: np.ndarray, evidence_P: np.ndarray, is_class_P: np.ndarray, weight_P: np.ndarray) -> float:
    """The share a in 0..1 at which p^(1-a) s^a, normalised with the other classes' 1 - p, predicts the class best."""
    log_p, log_rest = np.log(probs_P.astype(np.float64)), np.log1p(-probs_P.astype(np.float64))
    log_s = np.log(evidence_P.astype(np.float64))
    share_P = weight_P / weight_P.sum()

    def loss(share: float) -> float:
        logit_P = (1 - share) * log_p + share * log_s - log_rest
        return float(share_P @ np.logaddexp(0, np.where(is_class_P, -logit_P, logit_P)))

    # The end is tried too: a bounded search only comes near it.
    found = float(minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-3}).x)
    best = min((found, 1.0), key=loss)
    return best if loss(best) < (1 - LEAST_GAIN) * loss(0.0) else 0.0


def _unit(evidence_P: np.ndarray) -> np.ndarray:
    return evidence_P / 255 if evidence_P.dtype == np.uint8 else evidence_P
