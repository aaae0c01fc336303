"""Apply a fitted blend: to sampled pixels while fitting, to OOF tiles for their score, to test tiles for their labels.

A tile of 256x256 is done at once, a larger one in blocks, so that memory stays bounded.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy.special import expit

from ensemble.fitted import FittedBlend, FittedSpecialist
from ensemble.labels import class_order, top_class
from ensemble.patches import clean_labels
from ensemble.sample import Sample
from ensemble.source import Source

# C x pixels of a block. Smaller ones, which stay in a core's cache, are faster in one thread and slower in two: with
# nine times as many calls of numpy, threads wait for the interpreter's lock (127 tiles/s against 192).
BLOCK_VALUES = 1_000_000
# The smallest probability under a logarithm. Below 1/510 a stored byte is 0 and says only that p is small.
FLOOR = 2.0**-12


def blend_tile(blend: FittedBlend, source: Source, i: int) -> tuple[np.ndarray, np.ndarray]:
    """`apply_blend` to tile i of a source."""
    evidence_SHW = source.evidence(i, [specialist.name for specialist in blend.specialists])
    return apply_blend(blend, source.probs(i, blend.models), evidence_SHW)


def apply_blend(
    blend: FittedBlend, probs_MCHW: Sequence[np.ndarray], evidence_SHW: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """A tile's blended probabilities, (C, H, W) float32, and its labels, (H, W) uint8 indices.

    Args:
        probs_MCHW: an array or M arrays: of `blend.models`, in that order; uint8 (255 is 1) or float.
        evidence_SHW: an array or S arrays: of `blend.specialists`, in that order.
    """
    probs_CHW, index_HW = blend_pixels(blend, probs_MCHW, evidence_SHW)
    return probs_CHW, cleaned(blend, probs_CHW, index_HW)


def blend_pixels(
    blend: FittedBlend, probs_MCHW: Sequence[np.ndarray], evidence_SHW: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The same before post-processing, so that it holds for any part of a tile."""
    height, width = probs_MCHW[0].shape[1:]
    probs_CP, index_P = apply_pixels(
        blend,
        [probs_CHW.reshape(len(probs_CHW), -1) for probs_CHW in probs_MCHW],
        [evidence_HW.ravel() for evidence_HW in evidence_SHW],
    )
    return probs_CP.reshape(-1, height, width), index_P.reshape(height, width)


def cleaned(blend: FittedBlend, probs_CHW: np.ndarray | None, index_HW: np.ndarray) -> np.ndarray:
    """Labels after the blend's post-processing; without one, nobody asks for the probabilities."""
    return clean_labels(blend, index_HW, scores(blend, probs_CHW)) if blend.cleans else index_HW


def apply_pixels(
    blend: FittedBlend, probs_MCP: Sequence[np.ndarray], evidence_SP: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """`apply_blend` for pixels in any order, without post-processing: (C, P) float32 and (P,) uint8."""
    num_classes, num_pixels = probs_MCP[0].shape
    order = class_order(blend.classes)
    blended_CP = np.empty((num_classes, num_pixels), np.float32)
    index_P = np.empty(num_pixels, np.uint8)
    block = max(1, BLOCK_VALUES // num_classes)
    for first in range(0, num_pixels, block):
        here = slice(first, first + block)
        probs_CB = combine(blend, [probs_CP[:, here] for probs_CP in probs_MCP])
        _calibrate(blend, probs_CB)
        evidence_SB = [
            calibrated_evidence(specialist, evidence_P[here])
            for specialist, evidence_P in zip(blend.specialists, evidence_SP, strict=True)
        ]
        for specialist, evidence_B in zip(blend.specialists, evidence_SB, strict=True):
            if specialist.share > 0:
                add_evidence(floored(probs_CB), specialist, evidence_B)
        index_B = top_class(scores(blend, probs_CB), order)
        _override(blend, index_B, evidence_SB)
        blended_CP[:, here], index_P[here] = probs_CB, index_B
    return blended_CP, index_P


def apply_sample(blend: FittedBlend, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(C, P) probabilities and (P,) labels of a sample's pixels."""
    models = [sample.models.index(model) for model in blend.models]
    specialists = [list(sample.specialists).index(specialist.name) for specialist in blend.specialists]
    return apply_pixels(blend, [sample.probs_MCP[m] for m in models], [sample.evidence_SP[s] for s in specialists])


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


def _calibrate(blend: FittedBlend, probs_CB: np.ndarray) -> None:
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


def _override(blend: FittedBlend, index_B: np.ndarray, evidence_SB: list[np.ndarray]) -> None:
    """The plain rule: above its threshold a specialist wins; of several, the one furthest above."""
    margin_B = np.zeros(len(index_B), np.float32)
    for specialist, evidence_B in zip(blend.specialists, evidence_SB, strict=True):
        if specialist.threshold is not None:
            over_B = evidence_B - np.float32(specialist.threshold)
            wins = over_B > margin_B
            index_B[wins] = specialist.target
            margin_B[wins] = over_B[wins]


def _normalize(probs_CB: np.ndarray) -> np.ndarray:
    """In place: each pixel's probabilities sum to 1. All-zero pixels, which no softmax gives, stay zero."""
    probs_CB /= np.maximum(probs_CB.sum(0), np.float32(1e-12))
    return probs_CB
