"""The decision rule: labels that are better than argmax under mIoU, as an affine score per class.

mIoU divides each class's hits by its union, so a pixel of a rare class is worth thousands of forest: argmax, which
counts every pixel alike, gives rare classes away. Both rules here come to argmax_c (gain_c p_c + offset_c).
"""

from collections.abc import Sequence

import numpy as np

from ensemble.labels import miou_of_counts, miou_of_truth, of_class, top_class
from folds.metrics import confusion

ROUNDS = 40
DAMPING = 0.5
SWEEPS = 4
BIAS_RANGE = 3.0  # a factor of 20 either way
BIAS_BINS = 121


def fit_miou_rule(
    probs_CP: np.ndarray, truth_P: np.ndarray, weight_P: np.ndarray, order: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) gains and (C,) offsets of the first-order optimal labels for the mIoU of the whole data set.

    With hits T, union U and J = T/U of a class, one more pixel that is of this class with probability p changes J by
    (p (1 + J) - J) / U to first order: a hit adds to T, a miss to U. So its gain is (1 + J) / U and its offset -J / U.
    J and U are those of the labels that the rule itself gives: found by fixed-point iteration from argmax, damped
    because a rule that gives a class many pixels lowers that class's next gain, and back. The best iterate counts.
    """
    num_classes = len(probs_CP)
    total = weight_P.sum()
    best, best_rule = -1.0, None
    rule = np.ones(num_classes), np.zeros(num_classes)
    smooth_J = smooth_U = None
    for _ in range(ROUNDS):
        score_CP = probs_CP * rule[0].astype(np.float32)[:, None] + rule[1].astype(np.float32)[:, None]
        conf_CC = confusion(top_class(score_CP, order), truth_P, num_classes, weight_P)
        miou = miou_of_truth(conf_CC)
        if miou > best:
            best, best_rule = miou, rule
        hit_C = np.diagonal(conf_CC)
        union_C = conf_CC.sum(0) + conf_CC.sum(1) - hit_C
        iou_C = hit_C / np.maximum(union_C, 1e-12)
        if smooth_J is None:
            smooth_J, smooth_U = iou_C, union_C / total
        else:
            smooth_J = DAMPING * smooth_J + (1 - DAMPING) * iou_C
            smooth_U = DAMPING * smooth_U + (1 - DAMPING) * union_C / total
        rule = _affine(smooth_J, smooth_U, there_C=conf_CC.sum(1) > 0)
    return best_rule


def fit_bias_rule(
    probs_CP: np.ndarray, truth_P: np.ndarray, weight_P: np.ndarray, order: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(C,) gains exp(bias) and (C,) zeros: biases of log p, found class by class by an exact search of a grid."""
    num_classes = len(probs_CP)
    log_CP = np.log(np.maximum(probs_CP, 1e-6))
    bias_C = np.zeros(num_classes)
    best = miou_of_truth(confusion(top_class(log_CP, order), truth_P, num_classes, weight_P))
    step_B = np.linspace(-BIAS_RANGE, BIAS_RANGE, BIAS_BINS)
    for _ in range(SWEEPS):
        before = best
        for c in order:
            score_CP = log_CP + bias_C.astype(np.float32)[:, None]
            runner_up_P = top_class(score_CP, [other for other in order if other != c])
            to_beat_P = of_class(score_CP, runner_up_P)
            # The first grid value above what is lacking. Arithmetic: a binary search per pixel takes 20 times as long.
            lacking_P = (to_beat_P - score_CP[c] + BIAS_RANGE) * np.float32((BIAS_BINS - 1) / (2 * BIAS_RANGE))
            joins_from_P = np.clip(np.floor(lacking_P) + 1, 0, BIAS_BINS).astype(np.int64)
            miou_B = joining_miou(joins_from_P, BIAS_BINS, runner_up_P, truth_P, weight_P, c, num_classes)
            chosen = int(np.argmax(miou_B))
            if miou_B[chosen] > best + 1e-6:
                best = miou_B[chosen]
                bias_C[c] += step_B[chosen]
        if best <= before + 1e-5:
            break
    return np.exp(bias_C - bias_C.mean()), np.zeros(num_classes)


def joining_miou(
    joins_from_P: np.ndarray,
    bins: int,
    label_P: np.ndarray,
    truth_P: np.ndarray,
    weight_P: np.ndarray,
    c: int,
    num_classes: int,
) -> np.ndarray:
    """(B,) mIoU at each of a row of thresholds, at which ever more pixels leave their label for class c.

    Args:
        joins_from_P: the first threshold at which a pixel takes class c; `bins`: it never does.
        label_P: what it is until then.
    """
    conf_CC = confusion(label_P, truth_P, num_classes, weight_P)
    truth_C, said_C, hit_C = conf_CC.sum(1), conf_CC.sum(0), np.diagonal(conf_CC)
    joins = np.flatnonzero(joins_from_P < bins)
    # The one cell that counts for hits is (label, truth); its kind: 0 neither, 1 a hit is lost, 2 a hit is won, 3 both.
    lost_P, won_P = label_P[joins] == truth_P[joins], truth_P[joins] == c
    kind_P = lost_P.view(np.uint8) + np.uint8(2) * won_P.view(np.uint8)
    cell_P = (joins_from_P[joins] * num_classes + label_P[joins]) * 4 + kind_P
    moved_BC4 = np.bincount(cell_P, weight_P[joins], minlength=bins * num_classes * 4).reshape(bins, num_classes, 4)
    moved_BC4 = np.cumsum(moved_BC4, axis=0)
    left_BC = moved_BC4.sum(2)
    said_BC = said_C - left_BC
    said_BC[:, c] += left_BC.sum(1)
    hit_BC = hit_C - moved_BC4[:, :, 1] - moved_BC4[:, :, 3]
    hit_BC[:, c] += (moved_BC4[:, :, 2] + moved_BC4[:, :, 3]).sum(1)
    return miou_of_counts(hit_BC, truth_C + said_BC - hit_BC, truth_C)


def _affine(iou_C: np.ndarray, union_C: np.ndarray, there_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gains and offsets, scaled to a largest gain of 1. A class that the truth lacks is never given."""
    union_C = np.where(there_C, union_C, 1.0)
    gain_C = np.where(there_C, (1 + iou_C) / union_C, 0.0)
    offset_C = np.where(there_C, -iou_C / union_C, 0.0)
    scale = gain_C.max()
    gain_C, offset_C = gain_C / scale, offset_C / scale
    return gain_C, np.where(there_C, offset_C, offset_C.min() - 1.0)
