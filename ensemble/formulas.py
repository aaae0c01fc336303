"""The formulas of a blend, pixel by pixel: models combined, calibrated, joined by specialists, scored for the label.

P pixels, or the B pixels of a block, in any order; `ensemble.apply` says in which order the formulas follow each other.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy.special import expit

from ensemble.fitted import FittedBlend, FittedSpecialist

# The smallest probability under a logarithm. Below 1/510 a stored byte is 0 and says only that p is small.
FLOOR = 2.0**-12


def combine(blend: FittedBlend, probs_MCB: Sequence[np.ndarray]) -> np.ndarray:
    """(C, B) float32 weighted mean, or normalised weighted geometric mean, of the models' tempered probabilities."""
    weight_MC1 = np.array(blend.weight_MC, np.float32)[:, :, None]
    total_CB = np.zeros(probs_MCB[0].shape, np.float32)
    term_CB = np.empty_like(total_CB)
    for probs_CB, weight_C1, temperature in zip(probs_MCB, weight_MC1, blend.temperature_M, strict=True):
        if blend.combination == "gmean":
            # A temperature divides the log; its normalisation falls out when the sum is normalised.
            term_CB = lifted(probs_CB, log_prob)
            weight_C1 = weight_C1 / np.float32(temperature)
            term_CB *= weight_C1
        elif temperature != 1:
            term_CB = tempered(probs_CB, temperature)
            term_CB *= weight_C1
        elif probs_CB.dtype == np.uint8:
            np.multiply(probs_CB, weight_C1 / np.float32(255), out=term_CB)
        else:
            np.multiply(probs_CB, weight_C1, out=term_CB, casting="same_kind")
        total_CB += term_CB
    if blend.combination == "gmean":
        total_CB -= total_CB.max(0)
        np.exp(total_CB, out=total_CB)
    return _normalize(total_CB)


def lifted(probs: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """function(probability) as float32; of stored bytes by a table of its 256 values."""
    if probs.dtype == np.uint8 and probs.size:  # OpenCV takes no empty array
        table = function(np.arange(256) / 255).astype(np.float32)
        # Not np.take: it makes 8-byte indices of the bytes first, and takes two and a half times as long.
        return cv2.LUT(probs.reshape(-1, probs.shape[-1]), table).reshape(probs.shape)
    return function(probs.astype(np.float32))


def log_prob(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, FLOOR))


def tempered(probs_CP: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1/T), normalised over the classes."""
    return _normalize(lifted(probs_CP, lambda p: np.maximum(p, FLOOR) ** (1 / temperature)))


def calibrated_evidence(specialist: FittedSpecialist, evidence_P: np.ndarray) -> np.ndarray:
    """(P,) float32 calibrated probability that a pixel is of the specialist's class; above 0, for its logarithm."""

    def platt(s: np.ndarray) -> np.ndarray:
        s = np.clip(s, FLOOR, 1 - FLOOR)
        calibrated = expit(specialist.slope * np.log(s / (1 - s)) + specialist.bias)
        return np.maximum(calibrated, np.finfo(np.float32).tiny)  # a steep calibration ends at 0

    return lifted(evidence_P, platt)


def scores(blend: FittedBlend, probs: np.ndarray) -> np.ndarray:
    """gain_c p_c + offset_c along the first axis; the probabilities themselves under argmax."""
    gain_C, offset_C = np.array(blend.gain_C, np.float32), np.array(blend.offset_C, np.float32)
    if (gain_C == 1).all() and (offset_C == 0).all():
        return probs
    shape = (-1,) + (1,) * (probs.ndim - 1)
    return probs * gain_C.reshape(shape) + offset_C.reshape(shape)


def calibrate(blend: FittedBlend, probs_CB: np.ndarray) -> None:
    """In place: softmax of slope_c log p_c + bias_c, floored."""
    slope_C, bias_C = np.array(blend.slope_C, np.float32), np.array(blend.bias_C, np.float32)
    if (slope_C == 1).all() and (bias_C == 0).all():
        return
    np.maximum(probs_CB, np.float32(FLOOR), out=probs_CB)
    np.log(probs_CB, out=probs_CB)
    probs_CB *= slope_C[:, None]
    probs_CB += bias_C[:, None]
    probs_CB -= probs_CB.max(0)
    np.exp(probs_CB, out=probs_CB)
    _normalize(probs_CB)


def floored(probs_CB: np.ndarray) -> np.ndarray:
    """In place: no probability is 0. Where a network is certain, evidence against it has another class to turn to."""
    np.maximum(probs_CB, np.float32(FLOOR), out=probs_CB)
    return _normalize(probs_CB)


def add_evidence(probs_CB: np.ndarray, specialist: FittedSpecialist, evidence_B: np.ndarray) -> None:
    """In place: p_c <- p_c^(1-a) s^a for the specialist's class, then normalised.

    Args:
        probs_CB: floored. Specialists come one after the other, each on what those before it have left.
    """
    log_p_B, share = np.log(probs_CB[specialist.target]), np.float32(specialist.share)
    probs_CB[specialist.target] = np.exp((1 - share) * log_p_B + share * np.log(evidence_B))
    _normalize(probs_CB)


def override(blend: FittedBlend, index_B: np.ndarray, evidence_SB: list[np.ndarray]) -> None:
    """The plain rule: above its threshold a specialist wins; of several, the one furthest above."""
    margin_B = np.zeros(len(index_B), np.float32)
    for specialist, evidence_B in zip(blend.specialists, evidence_SB, strict=True):
        if specialist.threshold is not None:
            override_by(specialist, index_B, margin_B, evidence_B)


def override_by(
    specialist: FittedSpecialist, index_B: np.ndarray, margin_B: np.ndarray, evidence_B: np.ndarray
) -> None:
    """In place: the specialist wins where it is further above its threshold than who won before.

    Args:
        margin_B: how far that one is above its own; 0 where none has won.
    """
    over_B = evidence_B - np.float32(specialist.threshold)
    wins = over_B > margin_B
    index_B[wins] = specialist.target
    margin_B[wins] = over_B[wins]


def _normalize(probs_CB: np.ndarray) -> np.ndarray:
    """In place: each pixel's probabilities sum to 1. All-zero pixels, which no softmax gives, stay zero."""
    probs_CB /= np.maximum(probs_CB.sum(0), np.float32(1e-12))
    return probs_CB
