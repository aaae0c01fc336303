"""Apply a fitted blend: to sampled pixels while fitting, to OOF tiles for their score, to test tiles for their labels.

A tile of 256x256 is done at once, a larger one in blocks, so that memory stays bounded.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from base.threads import track_in_threads
from ensemble.fitted import FittedBlend
from ensemble.formulas import add_evidence, calibrate, calibrated_evidence, combine, floored, override, scores
from ensemble.labels import class_order, top_class
from ensemble.patches import clean_labels
from ensemble.sample import Sample
from ensemble.source import Source

# C x pixels of a block. Smaller ones, which stay in a core's cache, are faster in one thread and slower in two: with
# nine times as many calls of numpy, threads wait for the interpreter's lock (127 tiles/s against 192).
BLOCK_VALUES = 1_000_000


def labels_of(blend: FittedBlend, source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (H, W) uint8 indices) of each tile, in order. A few tiles are in memory at a time."""

    def label(i: int) -> tuple[str, np.ndarray]:
        return source.names[i], apply_tile(blend, source, i)[1]

    yield from track_in_threads(label, range(len(source.names)), "label tiles")


def apply_tile(blend: FittedBlend, source: Source, i: int) -> tuple[np.ndarray, np.ndarray]:
    """`apply_blend` to tile i of a source."""
    return apply_blend(blend, source.probs(i, blend.models), source.evidence(i, blend.specialist_names))


def apply_blend(
    blend: FittedBlend, probs_MCHW: Sequence[np.ndarray], evidence_SHW: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """A tile's blended probabilities, (C, H, W) float32, and its labels, (H, W) uint8 indices.

    Args:
        probs_MCHW: an array or M arrays: of `blend.models`, in that order; uint8 (255 is 1) or float.
        evidence_SHW: an array or S arrays: of `blend.specialists`, in that order.
    """
    probs_CHW, index_HW = apply_uncleaned(blend, probs_MCHW, evidence_SHW)
    return probs_CHW, cleaned(blend, probs_CHW, index_HW)


def apply_uncleaned(
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
        calibrate(blend, probs_CB)
        evidence_SB = [
            calibrated_evidence(specialist, evidence_P[here])
            for specialist, evidence_P in zip(blend.specialists, evidence_SP, strict=True)
        ]
        for specialist, evidence_B in zip(blend.specialists, evidence_SB, strict=True):
            if specialist.share > 0:
                add_evidence(floored(probs_CB), specialist, evidence_B)
        index_B = top_class(scores(blend, probs_CB), order)
        override(blend, index_B, evidence_SB)
        blended_CP[:, here], index_P[here] = probs_CB, index_B
    return blended_CP, index_P


def apply_sample(blend: FittedBlend, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(C, P) probabilities and (P,) labels of a sample's pixels."""
    models = [sample.models.index(model) for model in blend.models]
    specialists = [list(sample.specialists).index(name) for name in blend.specialist_names]
    return apply_pixels(blend, [sample.probs_MCP[m] for m in models], [sample.evidence_SP[s] for s in specialists])
